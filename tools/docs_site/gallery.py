"""What a system's page is given from elsewhere: the four choices, a picture, its configs, and its rows."""

from __future__ import annotations

import re
from pathlib import Path

from mim_jax.results import compare, files, table

CHOICES = ("hidden", "predicted", "by whom", "error")
# Pages whose systems are not just the one of their name.
SYSTEMS = {
    "beitv2": ("beitv2", "vqkd"),
    "cae": ("cae", "cae_v2"),
    "dbot": ("dbot", "dbot_beit"),
}


def systems(page: str) -> tuple[str, ...]:
    """The names in the registry that a page of the gallery tells of."""
    return SYSTEMS.get(page, (page,))


def choices(root: Path) -> dict[str, dict[str, str]]:
    """{page: its title and four choices}, from the table of docs/gallery/README.md, in its order."""
    found = {}
    for line in (root / "docs" / "gallery" / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        link = re.match(r"\[([^]]+)\]\((\w+)\.md\)", cells[0])
        if link and len(cells) == 1 + len(CHOICES):
            found[link[2]] = {"title": link[1], **dict(zip(CHOICES, cells[1:], strict=True))}
    return found


def navigation(root: Path) -> list:
    """The overview and every page, in the order of the overview's table; pages that are not in it come last."""
    known = choices(root)
    others = sorted(path.stem for path in root.glob("docs/gallery/*.md") if path.stem not in (*known, "README"))
    titles = [(known[page]["title"], page) for page in known] + [(page.capitalize(), page) for page in others]
    return [{"All systems": "gallery/README.md"}, *({title: f"gallery/{page}.md"} for title, page in titles)]


def complete(markdown: str, page: str, root: Path) -> str:
    """The page with the choices below its title and its configs and rows at the end."""
    title, _, rest = markdown.partition("\n")
    parts = [title, _choices(choices(root).get(page)), _picture(page, root), rest.strip(), _configs(page, root)]
    return "\n\n".join(filter(None, [*parts, _rows(page)])) + "\n"


def _choices(found: dict[str, str] | None) -> str:
    if not found:
        return ""
    return "\n".join(["| hidden | predicted | by whom | error |", "|---|---|---|---|",
                      f"| {' | '.join(found[name] for name in CHOICES)} |"])  # fmt: skip


def _picture(page: str, root: Path) -> str:
    """What tools/gallery_pictures.py drew, where it has."""
    shown = [name for name in systems(page) if (root / f"docs/images/gallery/{name}.png").is_file()]
    says = (
        "What `mim-jax show` draws, on digits of scikit-learn after a very short run (`tools/gallery_pictures.py`): it "
    )
    says += "shows the kind of picture, not what the system can do."
    return "\n\n".join([*(f"![What {name} predicts](../images/gallery/{name}.png)" for name in shown),
                        *([f"*{says}*"] if shown else [])])  # fmt: skip


def _configs(page: str, root: Path) -> str:
    found = [path for name in systems(page) for path in sorted(root.glob(f"configs/{name}/*.py"))]
    lines = [f"- `{path.relative_to(root)}`: {_first_sentence(path)}" for path in found]
    return "\n".join(["## Configs", "", *lines]) if lines else ""


def _first_sentence(path: Path) -> str:
    """Of the file's docstring, whose first lines say what it is."""
    text = path.read_text().partition('"""')[2].partition('"""')[0]
    return " ".join(text.partition("\n\n")[0].split())


def _rows(page: str) -> str:
    rows = [row for row in files.load() if row.method in systems(page)]
    chosen = compare.choose(rows)
    return f"## Published rows, and ours\n\n{table.markdown(chosen)}" if chosen else ""
