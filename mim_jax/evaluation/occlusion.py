"""Protocols `occlusion` and `patch_shuffle`: accuracy while information or order is taken away ("Intriguing Properties
of Vision Transformers", Naseer et al., NeurIPS 2021, sections 3.1 and 3.3). The held-out images serve, changed before
they are normalised; what is drawn depends on the seed and the record alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, Shaped

from mim_jax.data.randomness import generator
from mim_jax.errors import ConfigError
from mim_jax.evaluation.head import Head, head_feature, head_of
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.protocol import Change, Numbers, Protocol, Task
from mim_jax.methods.base import Method
from mim_jax.models.attention_map import patch_saliency
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.images import normalize

Batch = dict[str, np.ndarray]
MODES = ("random", "salient", "non_salient")


@dataclasses.dataclass(frozen=True)
class Occlusion(Protocol):
    """Patches are blacked out: a share of them at random, or the most (least) attended ones that hold that share of
    the attention (the last block's: of the class token, or of all patches where there is none)."""

    name: ClassVar[str] = "occlusion"
    ratios: tuple[int | float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    modes: tuple[str, ...] = ("random",)
    patch: int = 0
    probe: Linear = dataclasses.field(default_factory=Linear)

    @classmethod
    def from_config(cls, evaluation: Any) -> Occlusion:
        values, probe = evaluation["occlusion"], Linear.from_config(evaluation)
        ratios, modes = tuple(values["ratios"]), tuple(values["modes"])
        if not ratios or min(ratios) < 0 or max(ratios) > 1:
            raise ConfigError(f"evaluation.occlusion.ratios = {ratios} must be one or more shares from 0 to 1")
        if not modes or not set(modes) <= set(MODES):
            raise ConfigError(f"evaluation.occlusion.modes = {modes} must be one or more of {', '.join(MODES)}")
        return cls(probe.feature, ratios, modes, values["patch"], probe)

    def features(self, method: Method) -> tuple[str, ...]:
        return (head_feature(method, self.probe),)

    def run(self, task: Task) -> Numbers:
        side = self.patch_size(task)
        curves: dict[str, list[float]] = {}
        for mode in self.modes:
            saliency = None if mode == "random" else saliency_of(task)
            if mode != "random" and saliency is None:
                task.say(f"occlusion: '{mode}' is left out for {task.encoder.name}, which has no attention to go by")
                continue
            changes = [occluded(mode, ratio, side, task.seed, saliency) for ratio in self.ratios]
            curves[mode] = accuracies(task, changes)
        return curve_numbers(task, curves, self.ratios, "ratios", {"patch": list(side)})

    def patch_size(self, task: Task) -> tuple[int, int]:
        """Sides (height, width) of what is blacked out as one.

        Raises:
            ConfigError: they do not divide the image, or are to be the encoder's, which has none.
        """
        size = image_size(task)
        own = getattr(task.encoder.model, "patch_size", None)
        if self.patch or own is None:
            # Raw pixels have no patches: a fourteenth of the image, as of the paper's models, or what comes near.
            side = self.patch or next(s for s in range(max(1, min(size) // 14), 0, -1) if not any(x % s for x in size))
            own = (side, side)
        if any(x % s for x, s in zip(size, own, strict=True)):
            raise ConfigError(
                f"evaluation.occlusion.patch = {own[0]} does not divide the images of {size} pixels; choose a divisor"
            )
        return int(own[0]), int(own[1])


@dataclasses.dataclass(frozen=True)
class PatchShuffle(Protocol):
    """Images are cut into a grid of equal pieces, which change places at random."""

    name: ClassVar[str] = "patch_shuffle"
    grids: tuple[int, ...] = (1, 2, 4, 8)
    probe: Linear = dataclasses.field(default_factory=Linear)

    @classmethod
    def from_config(cls, evaluation: Any) -> PatchShuffle:
        grids, probe = tuple(evaluation["patch_shuffle"]["grids"]), Linear.from_config(evaluation)
        if not grids or min(grids) < 1:
            raise ConfigError(f"evaluation.patch_shuffle.grids = {grids} must be one or more numbers from 1 on")
        return cls(probe.feature, grids, probe)

    def features(self, method: Method) -> tuple[str, ...]:
        return (head_feature(method, self.probe),)

    def run(self, task: Task) -> Numbers:
        size = image_size(task)
        for grid in self.grids:
            if any(side % grid for side in size):
                raise ConfigError(
                    f"evaluation.patch_shuffle.grids: {grid} pieces a side do not divide the images of {size} pixels; "
                    "leave that one out"
                )
        found = accuracies(task, [shuffled(grid, task.seed) for grid in self.grids])
        return curve_numbers(task, {"shuffled": found}, self.grids, "grids", {})


def image_size(task: Task) -> tuple[int, int]:
    views = task.data.views
    size = (views["image"] if "image" in views else next(iter(views.values()))).size
    return int(size[0]), int(size[1])


def accuracies(task: Task, changes: list[Change]) -> list[float]:
    """Top-1 accuracy on the held-out images, changed in each of these ways."""
    head: Head = head_of(task)
    found = [task.features_of("", change) for change in changes]
    return [float((head.logits(images).argmax(axis=1) == images.truth).mean()) for images in found]


def curve_numbers(
    task: Task, curves: dict[str, list[float]], places: tuple[int | float, ...], name: str, settings: dict[str, Any]
) -> Numbers:
    """A metric for every point of every curve, and the mean of each curve."""
    metrics: dict[str, float] = {}
    for mode, curve in curves.items():
        metrics[f"{mode}_mean"] = float(np.mean(curve))
        metrics |= {f"{mode}_{place:g}": value for place, value in zip(places, curve, strict=True)}
    head = head_of(task)
    settings = settings | {"head": head.trained, "feature": head.feature}
    return Numbers(metrics, task.counts(), settings, {name: list(places), "top1": curves})


def occluded(
    mode: str,
    ratio: int | float,
    patch: tuple[int, int],
    seed: int,
    saliency: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Change:
    """Blacks out patches of every image. At random: floor(ratio N) of N, for a larger ratio the same ones and more.

    saliency: images (B, H, W, C) as stored -> share of the attention (B, h, w), which the other modes need.
    """

    def change(batch: Batch) -> Batch:
        images = batch["image"]
        grid = (images.shape[1] // patch[0], images.shape[2] // patch[1])
        if mode == "random":
            order = np.stack([draw(seed, "occlusion", index, grid[0] * grid[1]) for index in batch["index"]])
            hidden = np.zeros(order.shape, bool)
            np.put_along_axis(hidden, order[:, : int(np.floor(ratio * order.shape[1] + 1e-9))], True, axis=1)
        elif ratio == 0:
            hidden = np.zeros((len(images), grid[0] * grid[1]), bool)
        else:
            assert saliency is not None
            mass = to_grid(saliency(images), grid).reshape(len(images), -1)
            hidden = heaviest(mass, ratio) if mode == "salient" else ~heaviest(mass, 1 - ratio)
        black = np.repeat(np.repeat(hidden.reshape(-1, *grid), patch[0], axis=1), patch[1], axis=2)
        return {**batch, "image": np.where(black[..., None], np.zeros((), images.dtype), images)}

    return change


def heaviest(mass: Float[np.ndarray, "B N"], share: int | float) -> Shaped[np.ndarray, "B N"]:
    """Marks, largest first, the entries that together hold `share` of a row's sum: as few as reach it."""
    order = np.argsort(-mass, axis=1, kind="stable")
    sorted_mass = np.take_along_axis(mass, order, axis=1).astype(np.float64)
    before = np.cumsum(sorted_mass, axis=1) - sorted_mass
    marked = np.zeros(mass.shape, bool)
    np.put_along_axis(marked, order, before < share * sorted_mass.sum(axis=1, keepdims=True) - 1e-9, axis=1)
    return marked


def to_grid(mass: Float[np.ndarray, "B h w"], grid: tuple[int, int]) -> Float[np.ndarray, "B p q"]:
    """The same mass on another grid; equal shares of what a cell holds go to every part of it."""
    if mass.shape[1:] == grid:
        return mass
    rows, columns = (np.lcm(have, want) for have, want in zip(mass.shape[1:], grid, strict=True))
    fine = np.repeat(np.repeat(mass, rows // mass.shape[1], axis=1), columns // mass.shape[2], axis=2)
    return einops.reduce(fine, "b (p r) (q s) -> b p q", "mean", p=grid[0], q=grid[1])


def shuffled(grid: int, seed: int) -> Change:
    """Every image's pieces in an order of its own; a grid of 1 leaves it as it is."""

    def change(batch: Batch) -> Batch:
        order = np.stack([draw(seed, f"shuffle {grid}", index, grid * grid) for index in batch["index"]])
        return {**batch, "image": rearranged(batch["image"], order, grid)}

    return change


def rearranged(
    images: Num[np.ndarray, "B H W C"], order: Int[np.ndarray, "B P"], grid: int
) -> Num[np.ndarray, "B H W C"]:
    """Piece i of the result is piece order[i] of the image, raster order."""
    pieces = einops.rearrange(images, "b (h p) (w q) c -> b (h w) p q c", h=grid, w=grid)
    pieces = pieces[np.arange(len(images))[:, None], order]
    return einops.rearrange(pieces, "b (h w) p q c -> b (h p) (w q) c", h=grid, w=grid)


def draw(seed: int, purpose: str, index: int | np.integer, count: int) -> Int[np.ndarray, " N"]:
    """A permutation of range(count) that belongs to one record; padding, whose index is -1, gets any."""
    words = generator(seed, epoch=0, index=max(int(index), 0), purpose=purpose).bit_generator.random_raw(count)
    return np.argsort(words, kind="stable")


def saliency_of(task: Task) -> Callable[[np.ndarray], np.ndarray] | None:
    """Where the task's encoder looks, as `occluded` wants it; None for what is no vision transformer."""
    method, model, variables = task.encoder.method, task.encoder.model, task.encoder.variables
    if method is None or not isinstance(model, VitConfig):
        return None
    params = jax.device_get(method.encoder_params(variables.params, variables.extra))
    mean, std = tuple(task.data.mean), tuple(task.data.std)
    return lambda images: np.asarray(_saliency(params, images, model, mean, std)).reshape(
        -1, images.shape[1] // model.patch_size[0], images.shape[2] // model.patch_size[1]
    )


@functools.partial(jax.jit, static_argnames=("model", "mean", "std"))
def _saliency(
    params: Any, images: Num[Array, "B H W C"], model: VitConfig, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B N"]:
    return patch_saliency(model, params, normalize(jnp.asarray(images), mean, std))
