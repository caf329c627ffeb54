"""Links of a page to files of the project: to the page made of the file where there is one, else just its name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def mend(markdown: str, source: str, page: str, pages: Mapping[str, str], root: Path) -> str:
    """The text with every link to a file outside docs/ replaced.

    source: where the text stands in the project, `docs/evaluation.md`. page: where it is in the site, `evaluation.md`.
    pages: files of the project that are pages. A link to nothing at all is left, so that the build refuses it.
    """

    def replace(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if path in pages:
            return f"[{text}]({_to(pages[path], page)}{anchor})"
        if path.startswith("docs/") and path.endswith((".md", ".ipynb", ".png", ".svg")):
            return f"[{text}]({_to(path.removeprefix('docs/').replace('.ipynb', '.md'), page)}{anchor})"
        if (root / path).exists():
            return text if path in text else f"{text} (`{path}`)"
        return found[0]

    return LINK.sub(replace, markdown)


def _to(target: str, page: str) -> str:
    return os.path.relpath(target, os.path.dirname(page) or ".")
