"""Predictions for whole images from a trained plan; every process has its own images and its own devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import Pair
from mim_jax.evaluation.dense import windows

OUT_STEP = 64  # maps are filled up to a multiple of it
Look = tuple[float, bool]  # (factor of the image's size, whether it is mirrored)
Looks = Mapping[Look, float]
Cut = tuple[np.ndarray, np.ndarray, tuple[int, int]]
PLAIN: Looks = {(1.0, False): 1.0}


def looks_of(view: PairView, scales: Iterable[float], flip: bool) -> dict[Look, float]:
    """How an image is looked at in a multi-scale test, each look with its weight; the weights sum to 1.

    As in BEiT's test no factor makes an image smaller than the crop, so that factors which would are one look of more
    weight. flip: every size is looked at mirrored too.
    """
    least = min(1.0, min(view.crop) / view.short)
    found = Counter((max(float(scale), least), mirrored) for scale in scales for mirrored in (False, True)[: 1 + flip])
    return {look: count / found.total() for look, count in found.items()}


class Inference:
    """A plan (`training.Plan`) with its trained state, on the devices of this process.

    stride: of the windows; None: one window, the whole image at the size of the crop. together: windows a forward pass.
    devices: of this process, by default all. looks: of one the outputs are given as they are, of several the mean of
    their softmax over the classes, by weight.
    """

    def __init__(
        self,
        plan: Any,
        state: Any,
        variables: Any,
        view: PairView,
        stride: tuple[int, int] | None,
        together: int,
        devices: Sequence[jax.Device] | None = None,
        looks: Looks = PLAIN,
    ):
        own = list(devices or jax.local_devices())
        mesh = Mesh(np.asarray(own), ("data",))
        self.view, self.stride, self.looks = view, stride, looks
        self.together = windows.rounded(together, len(own))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        whole = NamedSharding(mesh, PartitionSpec())
        weights = jax.device_put(jax.tree.map(_local, (state, variables)), whole)
        run = jax.jit(lambda weights, images: plan.predict(*weights, images))
        self._predict = functools.partial(run, weights)

    def __call__(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, Float[Array, "H W K"]]]:
        """Each pair with the prediction at the size of its map, filled up below and on the right (`filled`)."""
        for group in _groups(pairs, max(self.together // len(self.looks), 1)):
            cut = [self._cut(pair, look) for pair in group for look in self.looks]
            ends = np.cumsum([len(crops) for crops, _, _ in cut])
            outputs = np.split(self._outputs(np.concatenate([crops for crops, _, _ in cut])), ends[:-1])
            seen = zip(outputs, cut, strict=True)
            for pair in group:
                yield pair, self._over_looks(pair, itertools.islice(seen, len(self.looks)))

    def _over_looks(self, pair: Pair, seen: Iterable[tuple[np.ndarray, Cut]]) -> Float[Array, "H W K"]:
        total: Any = 0.0
        for (look, weight), (outputs, (_, places, size)) in zip(self.looks.items(), seen, strict=True):
            joined = self._joined(outputs, places, size, pair.map.shape, mirrored=look[1])
            if len(self.looks) == 1:
                return joined
            total = _added(total, joined, weight)
        return total

    def _cut(self, pair: Pair, look: Look) -> Cut:
        """Windows of an image, their corners, and the size of the resized image."""
        factor, mirrored = look
        view = dataclasses.replace(
            self.view, short=round(self.view.short * factor), long=round(self.view.long * factor)
        )
        image = view.test(pair, whole=self.stride is None)
        image = image[:, ::-1] if mirrored else image
        size = image.shape[:2]
        image, _ = self.view.pad(image, np.zeros(size, np.int32))
        crop = self.view.crop
        places = windows.corners(image.shape[:2], crop, self.stride or crop)
        cut = [image[top : top + crop[0], left : left + crop[1]] for top, left in places]
        return np.stack(cut), places, size

    def _outputs(self, crops: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(crops), self.together):
            part = crops[first : first + self.together]
            filled_up = np.pad(part, ((0, self.together - len(part)), *((0, 0),) * 3), mode="edge")
            found.append(np.asarray(self._predict(jax.device_put(filled_up, self._split)))[: len(part)])
        return np.concatenate(found)

    def _joined(
        self, outputs: np.ndarray, places: np.ndarray, size: tuple[int, int], out: tuple[int, ...], mirrored: bool
    ) -> Float[Array, "H W K"]:
        crop, count = self.view.crop, 1 << (len(outputs) - 1).bit_length()
        step = max(min(crop) // 4, 1)
        canvas = tuple(windows.rounded(max(side, c), step) for side, c in zip(size, crop, strict=True))
        empty = ((0, count - len(outputs)),)
        joined = windows.averaged(
            np.pad(outputs, (*empty, *((0, 0),) * 3)),
            np.pad(places, (*empty, (0, 0))).astype(np.int32),
            np.arange(count) < len(outputs),
            crop=crop,
            canvas=canvas,
        )
        rows, columns = (
            windows.taps(old, new, length, flip)
            for old, new, length, flip in zip(size, out, filled(out), (False, mirrored), strict=True)
        )
        return windows.resized(joined, rows, columns)


@jax.jit
def _added(total: Any, logits: Float[Array, "H W K"], weight: Any) -> Float[Array, "H W K"]:
    return total + weight * jax.nn.softmax(logits)


def filled(size: tuple[int, ...]) -> tuple[int, int]:
    """The size to which a map is filled up, so that few programs serve maps of all sizes."""
    height, width = (windows.rounded(side, OUT_STEP) if side > OUT_STEP else side for side in size)
    return height, width


def fill_up(values: np.ndarray, padding: int | float) -> np.ndarray:
    """A map with `padding` below and on the right."""
    height, width = filled(values.shape)
    return np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1])), constant_values=padding)


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of every process's array, in its own type."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    # As bytes, because a device would cut 64 bits to 32.
    found = multihost_utils.process_allgather(np.frombuffer(values.tobytes(), np.uint8))
    return np.sum([np.frombuffer(row.tobytes(), values.dtype).reshape(values.shape) for row in found], axis=0)


def _groups(pairs: Iterable[Pair], count: int) -> Iterator[tuple[Pair, ...]]:
    iterator = iter(pairs)
    while group := tuple(itertools.islice(iterator, count)):
        yield group


def _local(leaf: Array) -> Array:
    """What lies whole on every device, as this process has it."""
    return jnp.asarray(leaf.addressable_data(0)) if isinstance(leaf, jax.Array) else leaf
