"""A Chromium of this machine, driven without a window. Nothing is downloaded: it has to be installed already."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW = "no Chromium here: install one (Debian: apt-get install chromium), or name it in $CHROME"


def executable() -> str | None:
    """$CHROME, or the first Chromium on the path."""
    named = os.environ.get("CHROME", "")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """A browser of Playwright's.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    path = executable()
    if path is None:
        raise FileNotFoundError(HOW)
    with sync_playwright() as playwright:
        # Chromium refuses to start its sandbox for root, which is who runs things in a container.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        try:
            yield browser
        finally:
            browser.close()
