"""Pictures as part of a page: reduced, packed as WebP, written as data: addresses."""

from __future__ import annotations

import base64
import functools
import io
import os
from pathlib import Path

from PIL import Image

# (widest, quality): pixels across, of which a usual screen shows no more than the first; and WebP's quality.
LADDER = ((1200, 82), (1000, 80), (850, 75), (700, 70))
WIDE = 1.7  # as wide as this many times the height


def svg(text: str) -> str:
    """An SVG as an address."""
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def picture(path: Path, *, exact: bool = False, pack: tuple[int, int] = LADDER[0]) -> str | None:
    """A PNG file as an address; None where it is no readable PNG.

    exact: every pixel as it is (plots); else what an eye hardly tells from it, at a fraction of the size: `pack`, of
    LADDER.
    """
    try:
        status = os.stat(path)
        return _packed(str(path), status.st_mtime_ns, status.st_size, exact, *pack)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # SyntaxError: Pillow's broken PNG
        return None


def fitting(path: Path, most: float | int) -> tuple[int, int]:
    """The first of LADDER with which a picture takes at most so many characters, or the last."""
    return next((pack for pack in LADDER if len(picture(path, pack=pack) or "") <= most), LADDER[-1])


def is_wide(path: Path) -> bool:
    """Whether a picture is much wider than high; False for what is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.width > WIDE * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


@functools.lru_cache(maxsize=256)
def _packed(path: str, changed: int, size: int, exact: bool, widest: int, quality: int) -> str:
    del changed, size  # they are there so that a changed file is packed anew
    with Image.open(path, formats=("PNG",)) as image:
        shown = image.convert("RGB")
    if shown.width > widest:
        shown = shown.resize((widest, max(1, round(shown.height * widest / shown.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="WEBP", quality=quality, lossless=exact, method=3)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
