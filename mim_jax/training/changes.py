"""What of a config may change when a run goes on, and the record of it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.training.lines import Lines, read_lines

FILE = "changes.jsonl"

# Keys (or sections) that change what a run computes from there on, but not what it has computed: allowed, and recorded.
MAY_CHANGE = (
    "training.batch_size",
    "training.accumulate",
    "training.epochs",
    "training.on_nonfinite",
    "training.max_skipped",
    "training.on_spike",
    "training.spike",
)


def may_change(key: str) -> bool:
    """Whether a run may go on with another value of `key`."""
    named = any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)
    return named or not configs.matters(key)


def changed(config: ConfigDict, workdir: Path) -> dict[str, tuple[object, object]]:
    """{key: (before, after)} of what differs from the run that `workdir` holds; {} for a new one.

    Raises:
        ConfigError: something differs that may not; lists all of it.
    """
    path = workdir / "config.json"
    if not path.exists():
        return {}
    before = configs.load_json(path)
    refused = [line for line in configs.diff(before, config) if not may_change(line.partition(":")[0])]
    if refused:
        raise ConfigError(
            f"{workdir} holds a run with another config; use another --workdir or undo: " + "; ".join(refused)
        )
    old, new = configs.flat(before), configs.flat(config)
    keys = [line.partition(":")[0] for line in configs.diff(before, config)]
    return {key: (old.get(key), new.get(key)) for key in keys}


def record(workdir: Path, step: int, found: dict[str, tuple[object, object]]) -> None:
    """Adds the changes, which hold from `step` on, to `changes.jsonl`; what stands there already is not repeated."""
    if not found:
        return
    known = [{k: v for k, v in line.items() if k != "time"} for line in read_lines(workdir / FILE)]
    lines = Lines(workdir / FILE)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for key, (before, after) in found.items():
        entry = json.loads(json.dumps({"step": step, "key": key, "before": before, "after": after}))
        if entry not in known:
            lines.write(json.dumps({"time": now, **entry}))
    lines.close()
