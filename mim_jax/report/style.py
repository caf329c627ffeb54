"""The style and the two small programs of a page: they stand in the page itself, and its policy names them by hash."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --dim: #5b6570; --line: #d9dee4; --soft: #f4f6f8;
  --accent: #0b5fd0; --good: #11734b; --warn: #8a5300; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --dim: #9aa5b1; --line: #333a42;
  --soft: #1d2127; --accent: #79b4ff; --good: #5fd39c; --warn: #f0b45a; --bad: #ff8f86; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 3.2rem; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 1.6rem; }
footer { padding-bottom: 3rem; color: var(--dim); font-size: .9rem; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; color: var(--dim); font-weight: 600; }
p { margin: .4rem 0; overflow-wrap: anywhere; max-width: 46rem; }
.dim, figcaption { color: var(--dim); font-size: .92rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: .2rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: .5rem; top: .5rem; background: var(--paper); padding: .4rem .8rem; z-index: 2; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper); border-bottom: 1px solid var(--line); }
nav ul { max-width: 72rem; margin: .6rem auto 0; padding: .45rem 1.1rem; list-style: none; display: flex; gap: 1.1rem;
  overflow-x: auto; }
nav a { text-decoration: none; white-space: nowrap; font-size: .92rem; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94rem; }
th, td { padding: .32rem 1.1rem .32rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; font-size: .86rem; white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 4.5rem; max-width: 34rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.key { font-family: ui-monospace, monospace; font-size: .86rem; overflow-wrap: break-word; min-width: 3rem; }
td.first { font-weight: 650; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.1rem 0; }
dl div { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem; }
dt { font-size: .85rem; color: var(--dim); }
dd { margin: 0; font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; border-radius: .35rem; }
img.paper { background: #fff; }
figure { margin: .8rem 0; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem;
  align-items: start; }
@media (min-width: 46rem) { .row .wide { grid-column: span 2; } }
.row figure { margin: 0; background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
.row img { width: 100%; }
figcaption { margin-top: .3rem; overflow-wrap: anywhere; }
.slider { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: center; margin: .6rem 0;
  position: sticky; top: 2.4rem; padding: .3rem 0; background: var(--paper); }
.slider[hidden], [hidden] { display: none; }
.slider label { font-weight: 600; }
.slider input { flex: 1 1 12rem; max-width: 28rem; min-width: 0; height: 2rem; accent-color: var(--accent); }
.slider output { font-variant-numeric: tabular-nums; min-width: 11rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem;
  margin: .6rem 0; overflow-x: auto; font: .86rem/1.5 ui-monospace, monospace; }
details { margin: .9rem 0; }
summary { cursor: pointer; color: var(--accent); }
.tag { display: inline-block; border: 1px solid currentColor; border-radius: 1rem; padding: 0 .6rem; font-size: .84rem;
  white-space: nowrap; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
@media (max-width: 40rem) { th, td { padding-right: .7rem; } td { min-width: 3rem; } }
@media print { nav, .slider { display: none; } }
"""

# Shows the picture that the slider stands at. Without it the newest picture is shown and the slider is not there.
SLIDER = """
for (const box of document.querySelectorAll("[data-slider]")) {
  const bar = box.querySelector(".slider"), input = bar.querySelector("input"), out = bar.querySelector("output");
  const pictures = [...box.querySelectorAll("figure")];
  const key = location.pathname + "#" + input.id;
  const show = () => {
    pictures.forEach((picture, i) => { picture.hidden = i !== Number(input.value); });
    out.value = pictures[input.value].dataset.words;
    input.setAttribute("aria-valuetext", out.value);
  };
  input.addEventListener("input", () => {
    show();
    try { sessionStorage.setItem(key, input.value === input.max ? "" : input.value); } catch { }
  });
  let kept = "";
  try { kept = sessionStorage.getItem(key) || ""; } catch { }
  input.value = kept && Number(kept) < pictures.length ? kept : input.max;
  bar.hidden = false;
  show();
}
"""

# A page of `mim-jax serve`: asks whether the files of the run have changed, and then loads the page anew.
LIVE = """
const page = document.documentElement, note = document.getElementById("live");
const open = () => [...document.querySelectorAll("details")].map((d) => d.open ? "1" : "0").join("");
const key = location.pathname + "#details";
try {
  [...(sessionStorage.getItem(key) || "")].forEach((c, i) => {
    const d = document.querySelectorAll("details")[i];
    if (d) { d.open = c === "1"; }
  });
} catch { }
setInterval(async () => {
  if (document.hidden) { return; }
  try {
    const answer = await fetch("stamp", { cache: "no-store" });
    if (!answer.ok) { throw new Error(); }
    if (await answer.text() !== page.dataset.stamp) {
      try { sessionStorage.setItem(key, open()); } catch { }
      location.reload();
    }
    note.textContent = "live: follows the files of the folder";
  } catch { note.textContent = "no answer from mim-jax serve: this page stands still"; }
}, 1000 * Number(page.dataset.every));
"""


def digest(text: str) -> str:
    """How a Content-Security-Policy names a style or script that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(*, live: bool = False) -> str:
    """What a page may do: show its own pictures, its own style, its own programs; nothing from elsewhere.

    live: it may also ask the server that it came from.
    """
    parts = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {digest(STYLE)}",
        f"script-src {digest(SLIDER)}" + (f" {digest(LIVE)}" if live else ""),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(parts + ["connect-src 'self'"] * live)
