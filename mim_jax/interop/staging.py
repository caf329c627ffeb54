"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mim_jax.errors import ConfigError


def refuse_existing(out: Path) -> None:
    """Raises ConfigError where `out` is there already."""
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another folder or remove it")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes that name at the end; removed where anything goes wrong.

    Raises:
        ConfigError: `out` is there already.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield made
        made.chmod(0o755)  # such folders are made for their owner alone
        os.rename(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
