"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import sys

_kept = False

# Parameters of glibc's mallopt(3): the numbers of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells the C library's allocator not to give freed memory back to the system; whether it could be told.

    A step on a CPU allocates gigabytes and frees them at its end. By default every large block is returned and
    fetched again, page by page, at each step, which on a virtual machine takes as long as the arithmetic. The process
    keeps the memory of its largest step from then on. Linux with glibc alone; elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    global _kept
    _kept = all(mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1)))
    return _kept


def give_back() -> None:
    """Gives back what is kept and free, after work of another kind than steps; does nothing where nothing is kept.

    An evaluation takes and frees blocks of other sizes than a step, between those that stay; so what is kept would be
    cut into ever smaller pieces, and the process grow by a megabyte an evaluation although it holds no more.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
