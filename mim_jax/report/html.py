"""The few pieces of HTML that a page is made of; all text is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mim_jax.report.style import LIVE, SLIDER, STYLE, policy

# What no browser shows, and what turns the direction of the text after it: such a name could pose as another.
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

BREAKS = re.compile(r"([._/:])(?=[^\W\d])")  # where a long key may go on in the next line


def escape(value: Any) -> str:
    """Text that means itself in HTML, inside attributes too."""
    plain = INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", str(value)).encode("utf-8", "replace").decode()
    return html.escape(plain, quote=True)


def document(title: str, body: Iterable[str], *, stamp: str = "", every: float | int = 10) -> str:
    """A whole page that loads nothing from elsewhere.

    stamp: of a page that is served: it asks every so many seconds whether the stamp is still this one.
    """
    parts = "\n".join(part for part in body if part)
    live = f' data-stamp="{escape(stamp)}" data-every="{escape(every)}"' if stamp else ""
    program = f"<script>{LIVE}</script>\n" if stamp else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"{live}>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(live=bool(stamp)))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#content">to the content</a>\n{parts}\n'
        f"<script>{SLIDER}</script>\n{program}</body>\n</html>\n"
    )


def header(title: str, *lines: str) -> str:
    """The top of a page; `lines` are HTML."""
    below = "\n".join(f"<p>{line}</p>" for line in lines if line)
    return f"<header>\n<h1>{escape(title)}</h1>\n{below}\n</header>"


def section(title: str, *body: str) -> str:
    """A heading and what stands under it; nothing where there is nothing."""
    content = "\n".join(part for part in body if part)
    name = anchor(title)
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


def anchor(title: str) -> str:
    """The name of a section in links."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def main(sections: Mapping[str, str]) -> str:
    """Sections by title, those with content alone, under a row of links to them."""
    shown = {title: section(title, content) for title, content in sections.items() if content}
    links = "".join(f'<li><a href="#{anchor(title)}">{escape(title)}</a></li>' for title in shown)
    row = f'<nav aria-label="sections"><ul>{links}</ul></nav>\n' if len(shown) > 1 else ""
    return f'{row}<main id="content" tabindex="-1">\n' + "\n".join(shown.values()) + "\n</main>"


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Iterable[int] = (),
    first: int = -1,
    keys: Iterable[int] = (),
    name: str = "",
) -> str:
    """A table; columns `numbers` are aligned right, `first` is the one to look at, `keys` are settings' names.

    name: what it shows, for those who hear it. A value that is `Raw` is HTML already.
    """
    if not rows:
        return ""
    right, mono = set(numbers), set(keys)

    def classes(column: int) -> str:
        names = ["number"] * (column in right) + ["first"] * (column == first) + ["key"] * (column in mono)
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f'<th scope="col"{classes(i)}>{escape(text)}</th>' for i, text in enumerate(headings))
    lines = (
        "<tr>" + "".join(f"<td{classes(i)}>{_cell(value, i in mono)}</td>" for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>\n" if headings else ""
    # Focusable, so that a table wider than the screen can be scrolled from the keyboard.
    label = f' role="region" tabindex="0" aria-label="{escape(name or "table")}"'
    return f'<div class="scroll"{label}><table>\n{top}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


class Raw(str):
    """A piece of HTML that `table` takes as it is."""


def _cell(value: Any, key: bool) -> str:
    if isinstance(value, Raw):
        return value
    text = escape(value)
    return BREAKS.sub(r"\1<wbr>", text) if key else text


def tag(text: Any, kind: str = "") -> Raw:
    """A small label; kind: good | warn | bad | ''."""
    return Raw(f'<span class="tag {kind}">{escape(text)}</span>')


def link(address: str, text: Any) -> Raw:
    """A link within the served pages."""
    return Raw(f'<a href="{escape(address)}">{escape(text)}</a>')


def facts(values: Mapping[str, Any]) -> str:
    """A row of small cards, one per fact."""
    cards = "\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return f"<dl>\n{cards}\n</dl>" if cards else ""


def figure(source: str, alt: str, caption: str = "", *, paper: bool = False, wide: bool = False) -> str:
    """An image with a text for those who do not see it.

    paper: it was drawn for a white page. wide: it takes the room of two.
    """
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    ground = ' class="paper"' if paper else ""
    room = ' class="wide"' if wide else ""
    return f'<figure{room}><img{ground} src="{escape(source)}" alt="{escape(alt)}">{below}</figure>'


def row(parts: Sequence[str]) -> str:
    """Things beside each other where there is room."""
    return '<div class="row">\n' + "\n".join(parts) + "\n</div>" if parts else ""


def heading(text: str, content: str) -> str:
    """A part of a section under a heading of its own; nothing where there is nothing."""
    return f"<h3>{escape(text)}</h3>\n{content}" if content else ""


def note(text: str) -> str:
    """A remark beside what it is about."""
    return f'<p class="dim">{escape(text)}</p>' if text else ""


def commands(lines: Sequence[str]) -> str:
    """Commands to copy."""
    return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>' if lines else ""


def details(summary: str, content: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>" if content else ""
