"""Screenshots to look at: the page of a run, and the gallery of the built documentation.

    python tools/screenshots.py --run runs/digits --site site --out screenshots

Each in light, in dark and on a phone; says what a page did wrong (errors of its console, a page wider than the phone).
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mim_jax.errors import MimError  # noqa: E402
from mim_jax.report.page import write_page  # noqa: E402
from tools import browser  # noqa: E402

SCREENS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 740}, "color_scheme": "light", "device_scale_factor": 2},
}
GALLERY = "gallery/"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def shoot(chromium: Any, address: str, name: str, out: Path) -> list[str]:
    """One picture a screen, NAME_SCREEN.png; returns what went wrong."""
    wrong: list[str] = []
    for screen, settings in SCREENS.items():
        with chromium.new_context(**settings) as context:
            page = context.new_page()
            page.on(
                "console", lambda said, at=screen: said.type == "error" and wrong.append(f"{name} {at}: {said.text}")
            )
            page.on("pageerror", lambda error, at=screen: wrong.append(f"{name} {at}: {error}"))
            page.goto(address, wait_until="load")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > settings["viewport"]["width"]:
                wrong.append(f"{name} {screen}: the page is {width} pixels wide")
            page.screenshot(path=out / f"{name}_{screen}.png", full_page=True)
    return wrong


def main() -> int:
    """Makes the pictures; returns 1 where a page did something wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run directory; its page is written anew, into --out")
    parser.add_argument("--site", help="folder of the built documentation (mkdocs build)")
    parser.add_argument("--out", default="screenshots", help="folder for the pictures (default: screenshots)")
    args = parser.parse_args()
    if not (args.run or args.site):
        parser.error("name --run, --site or both")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with browser.opened() as chromium:
        if args.run:
            page = write_page(args.run, out / "run.html")
            wrong += shoot(chromium, page.resolve().as_uri(), "run", out)
        if args.site:
            handler = functools.partial(Quiet, directory=args.site)
            with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                wrong += shoot(chromium, f"http://127.0.0.1:{server.server_port}/{GALLERY}", "gallery", out)
                server.shutdown()
    print("\n".join([*sorted(str(path) for path in out.glob("*.png")), *wrong]))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MimError, FileNotFoundError) as error:
        sys.exit(f"screenshots: {error}")
