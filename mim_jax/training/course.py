"""How the steps of a run lie on its epochs, also where the batch size changes on the way.

A run's place in the data is (epoch, records of it seen). While nothing changes, that is the step number written
otherwise. Where a run goes on with another batch size, the rest of the epoch is cut into batches of the new size, and
what does not fill one is dropped, as at the end of every epoch; so no record comes twice in an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Course:
    """Step number -> place in the data and in the schedules.

    records: of an epoch. shift: step s stands where step s + shift of a run with this batch size throughout would; its
    schedules are read there. epoch, lead: in this one epoch batches begin `lead` records later than in that run.
    """

    records: int
    batch_size: int
    shift: int = 0
    epoch: int = 0
    lead: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return self.records // self.batch_size

    def place(self, step: int) -> dict[str, int]:
        """{step, epoch, records of that epoch seen} before `step`, ready for JSON."""
        epoch, within = divmod(step + self.shift, self.steps_per_epoch)
        seen = within * self.batch_size + (self.lead if epoch == self.epoch else 0)
        return {"step": step, "epoch": epoch, "records": seen}

    @classmethod
    def going_on(cls, place: Mapping[str, Any], records: int, batch_size: int) -> Course:
        """The course from a place on, whatever the batch size was before it."""
        step, epoch, seen = int(place["step"]), int(place["epoch"]), int(place["records"])
        per_epoch = records // batch_size
        left = (records - seen) // batch_size  # whole batches in the rest of the epoch
        here = (epoch + 1) * per_epoch - left
        lead = seen - (per_epoch - left) * batch_size if left else 0
        return cls(records, batch_size, here - step, epoch if lead else 0, lead)


def old_place(step: int, records: int, batch_size: int) -> dict[str, int]:
    """The place of a checkpoint that knows its step alone. batch_size: that of the run that wrote it."""
    return Course(records, batch_size).place(step)
