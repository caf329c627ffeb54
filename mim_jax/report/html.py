"""The few pieces of HTML that a run's page is made of; all text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #1f6feb; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
p { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; }
td.first { font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; margin: 1rem 0; }
dl div { background: var(--soft); border-radius: .4rem; padding: .5rem .7rem; }
dt { font-size: .85rem; opacity: .75; }
dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figure { margin: .8rem 0; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem; }
.row figure { margin: 0; }
figcaption { font-size: .9rem; opacity: .8; }
pre { background: var(--soft); border-radius: .4rem; padding: .7rem .9rem; overflow-x: auto; font-size: .9rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
"""


def escape(value: Any) -> str:
    """Text that means itself in HTML, inside attributes too."""
    return html.escape(str(value), quote=True)


def document(title: str, body: Iterable[str]) -> str:
    """A whole page that loads nothing from elsewhere."""
    parts = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{parts}\n</body>\n</html>\n"
    )


def section(title: str, *body: str) -> str:
    """A heading and what stands under it; nothing where there is nothing."""
    content = "\n".join(part for part in body if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[int] = (), first: int = -1) -> str:
    """A table; columns `numbers` are aligned right, column `first` is the one to look at."""
    if not rows:
        return ""

    def classes(column: int) -> str:
        names = ["number"] * (column in numbers) + ["first"] * (column == first)
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f'<th scope="col"{classes(i)}>{escape(text)}</th>' for i, text in enumerate(headings))
    lines = (
        "<tr>" + "".join(f"<td{classes(i)}>{escape(value)}</td>" for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>\n" if headings else ""
    return f'<div class="scroll"><table>\n{top}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


def facts(values: Mapping[str, Any]) -> str:
    """A row of small cards, one per fact."""
    cards = "\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return f"<dl>\n{cards}\n</dl>" if cards else ""


def figure(source: str, alt: str, caption: str = "") -> str:
    """An image with a text for those who do not see it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{escape(source)}" alt="{escape(alt)}">{below}</figure>'


def row(parts: Sequence[str]) -> str:
    """Things beside each other where there is room."""
    return '<div class="row">\n' + "\n".join(parts) + "\n</div>" if parts else ""


def commands(lines: Sequence[str]) -> str:
    """Commands to copy."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>" if lines else ""


def details(summary: str, content: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>" if content else ""
