"""Which records every step has seen, where a run is asked to write it down (`training.log_records`)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np

from mim_jax.training.lines import Lines, cut_lines

FOLDER = "records"


class RecordLog:
    """`records/epoch_00003.jsonl`: one line a step, {step, index}, the record numbers in the order of the batch.

    Each process of several writes its own rows (`epoch_00003_process_1.jsonl`). Like metrics.jsonl it is cut where a
    run goes on from an earlier step. A batch that was left out says so.
    """

    def __init__(self, workdir: Path, on: bool, step: int):
        self._folder, self._on = workdir / FOLDER, on
        self._epoch = -1
        self._lines: Lines | None = None
        self.cut(step)

    def write(self, step: int, epoch: int, index: np.ndarray | None, left_out: bool = False) -> None:
        """step: the number that the step has in metrics.jsonl, the first one 1."""
        if not self._on or index is None:
            return
        if epoch != self._epoch or self._lines is None:
            self.close()
            self._folder.mkdir(exist_ok=True)
            end = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
            self._lines = Lines(self._folder / f"epoch_{epoch:05d}{end}.jsonl")
            self._epoch = epoch
        more = {"left_out": True} if left_out else {}
        self._lines.write(json.dumps({"step": step, "index": np.asarray(index).tolist(), **more}))

    def cut(self, step: int) -> None:
        """Removes what was written of steps after `step`."""
        self.close()
        if jax.process_index() != 0 or not self._folder.exists():
            return
        found = (re.fullmatch(r"(epoch_\d+)(_process_\d+)?\.jsonl", path.name) for path in self._folder.iterdir())
        epochs = sorted({match[1] for match in found if match}, reverse=True)
        for epoch in epochs:
            if not self._shortened(epoch, step):
                return  # nor is there in those before it

    def _shortened(self, epoch: str, step: int) -> bool:
        """Cuts the files of one epoch; whether there was anything to cut."""
        changed = False
        for path in self._folder.glob(f"{epoch}*.jsonl"):
            before = path.stat().st_size
            cut_lines(path, step)
            changed |= path.stat().st_size != before
            if not path.stat().st_size:
                path.unlink()
        return changed

    def close(self) -> None:
        """Safe to call twice."""
        if self._lines:
            self._lines.close()
            self._lines = None
