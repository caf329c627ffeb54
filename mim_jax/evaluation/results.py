"""eval.json of a run: every result with what it takes to get it again; only ever added to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mim_jax.errors import CheckpointError
from mim_jax.replacing import alone, replacing

FILE = "eval.json"


def read(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The results of a run, oldest first; an empty list where there are none yet.

    Raises:
        CheckpointError: the file is there but is not a list of results.
    """
    path = Path(run_dir) / FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); it was left as it is: move it away or mend it") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise CheckpointError(f"{path} is not a list of results; it was left as it is: move it away or mend it")
    return found


def append(run_dir: str | os.PathLike[str], entries: Sequence[Mapping[str, Any]]) -> Path:
    """Adds results to eval.json, all of them or none; two evaluations at once do not lose each other's.

    Raises:
        CheckpointError: the file there is damaged; it is not touched.
    """
    path = Path(run_dir) / FILE
    with alone(path.parent):
        text = json.dumps([*read(run_dir), *entries], indent=2, allow_nan=False)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n")
    return path
