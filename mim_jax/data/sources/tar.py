"""The members of a tar file and where their bytes lie (POSIX.1-2001 `ustar` and `pax`, and GNU's long names).

Nothing is ever extracted. Python's own reader takes a damaged header in the middle for the end, so that the records
behind it are missing and nobody hears of it, and asks for as much memory as a header says. Here what is damaged is an
error, every step goes forward, and no size is believed that does not fit into the file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from mim_jax.errors import DataError

BLOCK = 512
LONGEST = 1 << 20  # of an extended header; real ones are a few hundred bytes
MEND = "copy it anew, or pack it anew without compression"
_END = bytes(BLOCK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_ABOUT_NEXT = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class Member(NamedTuple):
    """A regular file in a tar: its name, and the place of its bytes."""

    name: str
    offset: int
    size: int


def members(path: str) -> Iterator[Member]:
    """The regular files of an uncompressed tar, in order; links, folders and devices are passed over.

    Raises:
        DataError: not a tar, or damaged or cut off; the sentence says where, and names no file.
    """
    with open(path, "rb") as file:
        yield from _members(file, os.fstat(file.fileno()).st_size)


def _members(file: Any, total: int) -> Iterator[Member]:
    at = 0
    changed: dict[str, str] = {}  # what extended headers say of the next member
    while True:
        file.seek(at)
        block = file.read(BLOCK)
        if block == _END:
            return
        if len(block) < BLOCK:
            raise DataError(
                f"is empty (zero bytes); {MEND}"
                if not total
                else f"is cut off at byte {at + len(block)} of a header; {MEND}"
            )
        header, at = _header(block, at), at + BLOCK
        name, size = changed.get("path", header.name), header.size
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"has a sparse member, '{name[:80]}'; pack it again without tar's --sparse")
        if header.type in _EMPTY:
            size = 0  # links and devices have no bytes, whatever their header says
        elif header.type not in _ABOUT_NEXT and "size" in changed:
            size = _whole(changed["size"], at)
        if not 0 <= size <= total - at:
            raise DataError(
                f"is cut off: '{name[:80]}' at byte {at} takes {size} bytes, but {total - at} are left; {MEND}"
            )
        if header.type in _ABOUT_NEXT:
            changed |= _extended(file, header.type, at, size)
        else:
            if header.type in _FILES and not any(key.startswith("GNU.sparse.") for key in changed):
                yield Member(name, at, size)
            changed = {}
        at += -(-size // BLOCK) * BLOCK


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise DataError(f"is not a whole, uncompressed tar file: at byte {at} there is {error}; {MEND}") from error


def _extended(file: Any, kind: bytes, at: int, size: int) -> dict[str, str]:
    """What a header for the next member says; a header for all members only sets what is of no matter here."""
    if size > LONGEST:
        raise DataError(f"is damaged: a header at byte {at} takes {size} bytes; {MEND}")
    data = file.read(size)
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    if kind not in _PAX:
        return {}
    found = {}
    while data.strip(b"\0"):
        length = _whole(data.partition(b" ")[0][:20].decode("ascii", "replace"), at)
        key, mark, value = data[:length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        if not mark or length > len(data):
            raise DataError(f"is damaged: the extended header at byte {at} is not a list of keys and values; {MEND}")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _whole(text: str, at: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise DataError(
            f"is damaged: the extended header at byte {at} says {text[:20]!r} where a number has to be; {MEND}"
        )
    return int(text)
