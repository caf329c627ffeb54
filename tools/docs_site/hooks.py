"""What mkdocs asks while it builds the site: pages that are made here, and what existing pages are given besides.

Made: the notebooks as text, the API reference, and the files of the project's root. Given to a system's page: its four
choices, picture, configs and rows, each read from where it stands, so that no number is written twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gallery  # noqa: E402
import links  # noqa: E402
import notebook  # noqa: E402
import reference  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Files outside docs/ that are pages of the site too, and where.
FROM_ROOT = {"results/README.md": "measured.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
FIGURES = {
    path.relative_to(ROOT).as_posix(): f"images/{path.relative_to(ROOT).as_posix()}"
    for path in sorted(ROOT.glob("results/**/*.svg"))
}


def on_config(config):
    """Fills the two parts of the navigation that follow the code."""
    parts = {"gallery/": gallery.navigation(ROOT), "api/": reference.navigation(ROOT)}
    config.nav = [
        {name: parts.get(where, where) if isinstance(where, str) else where} for name, where in _pairs(config)
    ]
    return config


def _pairs(config):
    return [pair for entry in config.nav for pair in entry.items()]


def on_files(files, config):
    """Adds the pages that are made, and leaves out the sources they are made from."""
    made = {page: (ROOT / path).read_text() for path, page in FROM_ROOT.items()}
    made |= {f"notebooks/{path.stem}.md": notebook.markdown(path) for path in ROOT.glob("docs/notebooks/*.ipynb")}
    made |= reference.pages(ROOT)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for path, page in FIGURES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for file in list(files):
        if file.src_uri.endswith((".ipynb", ".py")):
            files.remove(file)
    return files


def on_page_markdown(markdown, page, config, files):
    """Completes a system's page, and turns links to files that are no pages into their names."""
    where = page.file.src_uri
    if where.startswith("gallery/") and not where.endswith("README.md"):
        markdown = gallery.complete(markdown, Path(where).stem, ROOT)
    source = next((path for path, made in FROM_ROOT.items() if made == where), f"docs/{where}")
    return links.mend(markdown, source, where, FROM_ROOT | FIGURES, ROOT)
