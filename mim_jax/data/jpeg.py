"""Baseline JPEG files by libjpeg-turbo itself, no further down than a crop needs (`data.decode = fast`).

ITU-T T.81, annex B, for the layout of the header. Pixels equal Pillow's to the bit: both are libjpeg-turbo's.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mim_jax.errors import ConfigError

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the other three are tables
_SHORTENABLE = (0xC0, 0xC1)  # sequential Huffman: rows come from top to bottom
_APP1, _SCAN = 0xE1, 0xDA
_EXIF, _ORIENTATION = b"Exif", 0x0112
MOST_SCANS = 100  # a progressive file has about ten; one of a megabyte can have so many that it takes minutes
_scratch = threading.local()


@dataclasses.dataclass(frozen=True)
class Header:
    """What a frame header says: where its height stands in the file, and the height of a row of blocks in pixels."""

    at: int
    height: int
    width: int
    components: int
    block: int
    shortenable: bool


def header(data: bytes) -> Header | None:
    """The frame header; None where Pillow has to read the file (not JPEG, turned by EXIF, 12 bits, CMYK, damaged)."""
    if not data.startswith(_START):
        return None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker in _FRAMES:
            return _frame(data, at, marker)
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        # EXIF may turn the image, which Pillow knows how to do.
        if marker == _SCAN or (marker == _APP1 and data.startswith(_EXIF, at + 4) and _turned(data[at + 4 : end])):
            return None
        at = end
    return None


def _turned(segment: bytes) -> bool:
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(_ORIENTATION, 1) != 1
    except Exception:  # as many kinds as there are damaged segments; Pillow's own way is the rule
        return True


def _frame(data: bytes, at: int, marker: int) -> Header | None:
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    if length < 11 or at + 2 + length > len(data) or data[at + 4] != 8:
        return None
    height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
    components = data[at + 9]
    if components not in (1, 3) or length != 8 + 3 * components or not height or not width:
        return None
    factors = [data[at + 11 + 3 * i] for i in range(components)]
    if not all(1 <= factor & 15 <= 4 and 1 <= factor >> 4 <= 4 for factor in factors):
        return None
    block = 8 * max(factor & 15 for factor in factors)
    # What is cut off below must not hide that the file is truncated there.
    whole = marker in _SHORTENABLE and _END in data[-64:]
    return Header(at + 5, height, width, components, block, whole)


class Pending:
    """A JPEG image whose size is known and whose pixels are not decoded yet.

    whole: decodes all of it in the usual way; asked where libjpeg-turbo finds anything to object to.
    """

    def __init__(self, data: bytes, found: Header, channels: int, whole: Callable[[], np.ndarray]):
        self._data, self._header, self._channels, self._whole = data, found, channels, whole
        self.height, self.width = found.height, found.width

    def decode(self, bottom: int, scratch: bool = False) -> UInt8[np.ndarray, "rows W C"]:
        """The rows above `bottom`, and some more, the last of which may be a little off.

        scratch: into memory of this thread that its next call overwrites; new pages cost a tenth of a decoder's time.
        Raises DataError where the file is damaged.
        """
        found = self._header
        # One row of blocks more than needed: smooth chroma upsampling looks at it.
        rows = min(found.height, -(-bottom // found.block) * found.block + found.block)
        if not found.shortenable:
            rows = found.height
        pixels = _memory(rows * found.width * found.components, scratch)
        if not _into(pixels, self._data, found, rows):
            return self._whole()
        image = pixels.reshape(rows, found.width, found.components)
        return np.repeat(image, 3, axis=2) if found.components < self._channels else image


def scans(data: bytes) -> int:
    """How many passes over the pixels a JPEG file asks for, thumbnails included; pixels' bytes never look so."""
    return data.count(b"\xff" + bytes([_SCAN]))


def pending(data: bytes | np.ndarray, channels: int, whole: Callable[[], np.ndarray]) -> Pending | None:
    """A record that can be decoded here, else None."""
    if not isinstance(data, bytes) or (found := header(data)) is None or scans(data) > MOST_SCANS:
        return None
    # Grey of a colour image is Pillow's luma, not the file's.
    return Pending(data, found, channels, whole) if (found.components, channels) in ((1, 1), (1, 3), (3, 3)) else None


def _into(pixels: np.ndarray, data: bytes, found: Header, rows: int) -> bool:
    """Decodes the first rows into flat memory; False where the decoder is not content."""
    import simplejpeg

    file: bytes | bytearray = data
    if rows < found.height:
        # The header says that the image ends here, so nothing below is decoded: no decoder for Python can be told so.
        file = bytearray(data)
        file[found.at : found.at + 2] = rows.to_bytes(2, "big")
    try:
        simplejpeg.decode_jpeg(file, "GRAY" if found.components == 1 else "RGB", buffer=pixels)
    except ValueError as error:
        # It has decoded every row by the time that it finds the rest of the scan.
        return rows < found.height and "extraneous bytes before marker" in str(error)
    return True


def _memory(size: int, scratch: bool) -> np.ndarray:
    if not scratch:
        return np.empty(size, np.uint8)
    held = getattr(_scratch, "held", None)
    if held is None or len(held) < size:
        held = _scratch.held = np.empty(size, np.uint8)
    return held[:size]


def require_fast() -> None:
    """Raises ConfigError where what `data.decode = fast` needs is not installed."""
    try:
        import cykooz_resizer  # noqa: F401
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"data.decode = 'fast' needs the package {error.name}; install mim_jax[fast], or set data.decode = 'exact'"
        ) from error
