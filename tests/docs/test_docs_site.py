"""The site's own code: every system has its page, and what pages are given is what stands elsewhere."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys

import pytest

from mim_jax.methods.registry import METHODS


@pytest.fixture(scope="module")
def site(root):
    """A function that imports a module of tools/docs_site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "tools" / "docs_site")
        yield importlib.import_module


def test_every_system_has_a_page_and_its_four_choices(site, root):
    gallery = site("gallery")
    pages = {path.stem for path in root.glob("docs/gallery/*.md")} - {"README"}
    told = {name for page in pages for name in gallery.systems(page)}
    assert set(METHODS) - told == {"finetune"}  # which is a protocol
    assert pages - set(gallery.choices(root)) == {"tokenizer"}  # which hides nothing
    assert all(all(found.values()) for found in gallery.choices(root).values())


def test_a_page_is_given_choices_picture_configs_and_rows(site, root):
    page = site("gallery").complete("# MAE\n\nWhat it is.\n", "mae", root)
    title, table, *rest = page.split("\n\n")
    assert title == "# MAE" and table.startswith("| hidden | predicted |") and "75 % of the patches" in table
    assert "../images/gallery/mae.png" in page and page.index("What it is.") < page.index("## Configs")
    assert "- `configs/mae/digits.py`: A small MAE on the embedded handwritten digits" in page
    rows = json.loads((root / "results" / "mae.json").read_text())["published"]
    assert all(row["id"] in page for row in rows)


def test_every_page_can_be_completed(site, root):
    for page in root.glob("docs/gallery/*.md"):
        if page.stem != "README":
            made = site("gallery").complete(page.read_text(), page.stem, root)
            assert "## Configs" in made, page.name


PAGES = {"results/README.md": "measured.md"}


@pytest.mark.parametrize(
    ("source", "page", "text", "expected"),
    [
        ("docs/evaluation.md", "evaluation.md", "[r](../results/README.md#x)", "[r](measured.md#x)"),
        ("docs/gallery/mae.md", "gallery/mae.md", "[r](../../results/README.md)", "[r](../measured.md)"),
        ("results/README.md", "measured.md", "[d](../docs/gallery/mae.md)", "[d](gallery/mae.md)"),
        ("docs/index.md", "index.md", "[n](notebooks/first_steps.ipynb)", "[n](notebooks/first_steps.md)"),
        ("docs/x.md", "x.md", "[the file](examples/mosaic.py)", "the file (`docs/examples/mosaic.py`)"),
        ("docs/x.md", "x.md", "[Makefile](../Makefile)", "Makefile"),
        ("docs/x.md", "x.md", "[gone](../nowhere.md)", "[gone](../nowhere.md)"),
        ("docs/x.md", "x.md", "[out](https://a.b/c.md)", "[out](https://a.b/c.md)"),
        ("docs/x.md", "x.md", "[here](#part)", "[here](#part)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(site, root, source, page, text, expected):
    assert site("links").mend(text, source, page, PAGES, root) == expected


def test_a_notebook_becomes_text_and_code(site, root):
    pytest.importorskip("nbformat")
    text = site("notebook").markdown(root / "docs" / "notebooks" / "first_steps.ipynb")
    assert text.startswith("# First steps") and "```python\n" in text and text.count("```") % 2 == 0


def test_the_reference_names_modules_that_exist(site, root):
    pages = site("reference").pages(root)
    assert "::: mim_jax.masking.random" in pages["api/masking.md"]
    for text in pages.values():
        for line in text.splitlines():
            if line.startswith("::: "):
                path = root / line.removeprefix("::: ").replace(".", "/")
                assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), line


def test_the_figure_is_what_its_tool_draws(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "tools")
    drawn = importlib.import_module("frame_figure").draw()
    shown = (root / "docs" / "images" / "frame.svg").read_bytes()
    assert drawn.startswith(b"<?xml") and drawn.count(b"<path") == shown.count(b"<path")


def test_pictures_are_of_systems_and_what_they_need_comes_first(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "tools")
    pictures = importlib.import_module("gallery_pictures")
    assert pictures.needed(["beit", "mae", "eva02"]) == ["tokenizer", "beit", "mae", "eva02"]
    line = pictures.train_command("beit", root / "runs", 2.0)
    assert line[2].startswith("configs/beit/cifar10.py:source=digits:train,") and "tokenizer=" in line[2]
    assert {path.stem for path in root.glob("docs/images/gallery/*.png")} <= set(METHODS)


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(root, tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "http" not in "".join(_fetched(tmp_path / "site" / "index.html"))
    page = (tmp_path / "site" / "gallery" / "mae.html").read_text()
    assert "mae/vit_b16/imagenet1k/1600ep/finetune" in page


def _fetched(path) -> list[str]:
    """Addresses from which a page takes scripts, styles, fonts and pictures."""
    taken = r'<(?:script|img|link rel="(?:stylesheet|preconnect)")[^>]*(?:src|href)="([^"]*)"'
    return re.findall(taken, path.read_text())


def test_lists_and_tables_stand_apart_from_the_text_before_them(root):
    """Otherwise the site shows them as text, while other readers of Markdown do not."""
    for path in [*(root / "docs").rglob("*.md"), root / "README.md", root / "CONTRIBUTING.md"]:
        before, fenced = "", False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            fenced ^= line.startswith("```")
            begins = re.match(r"- |\d+\. |\|", line)
            if begins and not fenced and before and not re.match(r"- |\d+\. |\s|#|\||```|<!--", before):
                raise AssertionError(f"{path.name}, line {number}: an empty line is missing before it")
            before = line
