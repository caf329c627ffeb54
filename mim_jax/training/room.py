"""Whether there is room on the disk for a checkpoint, asked before several processes begin to write one together.

One process takes a failed write back and goes on. Several cannot: those that wrote well would wait for the one that did
not. So they ask first, and all hear the answer of process 0, whose disk is everybody's.
"""

from __future__ import annotations

import shutil
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mim_jax.training.bucket import is_remote

SMALL_FILES = 1 << 20  # bytes beside the arrays: metadata, digests, the position in the data

Tree = Any


def lack(directory: epath.Path, tree: Tree) -> str:
    """Why `tree` cannot be written below `directory`; '' where it can, or where only trying tells: a bucket has no end.

    The arrays are taken as they are; Orbax's compression may need less.
    """
    if is_remote(directory):
        return ""
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # then trying tells; the others wait for an answer
        return ""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes")) + SMALL_FILES
    if free >= needed:
        return ""
    return f"no space left on the disk: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free"


def agreed_lack(directory: epath.Path, tree: Tree) -> str:
    """`lack` as process 0 finds it, told to all: every process of a run must call this."""
    found = lack(directory, tree) if jax.process_index() == 0 else ""
    if multihost_utils.broadcast_one_to_all(np.asarray(bool(found))):
        return found or "no space left on the disk, as process 0 says"
    return ""
