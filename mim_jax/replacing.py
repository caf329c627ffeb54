"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

WRITING = ".tmp"  # how the name of a file ends that is being written


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file beside `path` to write to: it takes its place where the block ends well, and is removed where not.

    Host and process are in its name, so that several may write to one shared folder at once.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{WRITING}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a full or vanished disk must not hide what went wrong
            temporary.unlink(missing_ok=True)
