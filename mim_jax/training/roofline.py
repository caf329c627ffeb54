"""How long a step takes by a roofline: the slowest of arithmetic, memory, network and input, each by its own rate.

Arithmetic and memory overlap on one chip, so the larger of the two counts, divided by an efficiency that is assumed and
always printed. The exchange of gradients is taken to overlap with the backward pass, and input with the step before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from mim_jax.training.hardware import Chip

# Share of the roofline that a step is assumed to reach. Not a measurement: `mim-jax plan --measure` says what this
# machine reaches, and the images/s of a first run what another one does.
EFFICIENCY = 0.5
# Images that a core of the host decodes, crops and flips in a second, for one crop of 224 x 224 pixels; assumed
# likewise, and taken to fall with the pixels that are made. `mim-jax data bench` measures it.
IMAGES_PER_CORE, CROP, MOST = 100.0, 224 * 224, 5000.0


def images_per_core(views: Iterable[tuple[int, ...]]) -> float:
    """Images/s that a core is assumed to prepare, for views of shape (1, [count,] H, W, C)."""
    pixels = sum(math.prod(shape[1:-1]) for shape in views)
    return min(MOST, IMAGES_PER_CORE * CROP / pixels)


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one step on one chip: FLOPs, bytes to and from memory, bytes of gradients (and parameters) exchanged, images
    fed."""

    flops: float
    memory_bytes: float
    network_bytes: float
    images: float


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of one step by what would bound it. `roofline`: arithmetic as a share of the larger of arithmetic and
    memory, which is 1 where the chip's arithmetic is the limit."""

    compute: float
    memory: float
    network: float
    input: float
    efficiency: float

    @property
    def parts(self) -> dict[str, float]:
        chip = {"compute": self.compute / self.efficiency, "memory": self.memory / self.efficiency}
        return {**chip, "network": self.network, "input": self.input}

    @property
    def seconds(self) -> float:
        return max(self.parts.values())

    @property
    def bound(self) -> str:
        return max(self.parts, key=self.parts.__getitem__)

    @property
    def roofline(self) -> float:
        return self.compute / max(self.compute, self.memory)


def network_seconds(chip: Chip, chips: int, size: float) -> float:
    """An all-reduce of `size` bytes on every chip: each sends 2 (n - 1) / n of it (ring), over all its links at once.

    Beyond the chips that are wired together the slower network counts, where one is published.
    """
    if chips < 2 or not chip.link:
        return 0.0
    rate = chip.outside if chips > chip.domain and chip.outside else chip.link
    return 2 * size * (chips - 1) / chips / rate


def step(
    work: Work,
    chip: Chip,
    chips: int,
    precision: str,
    *,
    efficiency: float = EFFICIENCY,
    per_core: float | int = IMAGES_PER_CORE,
) -> Step:
    """Times one step on `chips` chips."""
    return Step(
        compute=work.flops / chip.peak(precision),
        memory=work.memory_bytes / chip.bandwidth,
        network=network_seconds(chip, chips, work.network_bytes),
        input=work.images / (chip.cores * per_core),
        efficiency=efficiency,
    )


def as_row(chip: Chip, chips: int, batch: int, timed: Step, work: Work, precision: str) -> dict[str, Any]:
    """What a step comes to, ready for JSON."""
    return {
        "device": chip.name,
        "chips": chips,
        "images_per_second": batch / timed.seconds,
        "step_seconds": timed.seconds,
        "bound": timed.bound,
        "seconds": {name: value for name, value in timed.parts.items()},
        "roofline": timed.roofline,
        "mfu": work.flops / timed.seconds / chip.peak(precision),
    }
