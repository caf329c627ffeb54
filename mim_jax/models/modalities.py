"""What an image can be given as: pixels of any number of channels, or maps of labels, at its own or a coarser grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mim_jax.errors import ConfigError, check_choices, check_keys
from mim_jax.targets import pseudo_modalities
from mim_jax.targets.trimmed import trimmed_standardize

SOURCES = ("image", "luminance", "edges", "colours", "given")
LOSSES = ("mse", "l1", "cross_entropy")
NORM = "norm_"  # before the name of a modality of pixels: an output of its patches standardised


@dataclasses.dataclass(frozen=True)
class Modality:
    """One modality, as a section of `method.modalities` describes it.

    source: image | luminance | edges | colours (made from the image: `targets.pseudo_modalities`) | given (the array of
        the batch under the modality's name: (B, h, w, channels), or (B, h, w) or (B, h, w, 1) labels).
    stride: pixels of the image per value of the map. classes: of labels; 0 for pixels. embedding: width of a label's.
    loss: mse | l1 | cross_entropy (of labels).
    trim: of a given map of values: the share at either end of an image's values that the mean and the deviation leave
        out by which it is standardised (MultiMAE's depth: 0.1); 0: as it is.
    """

    source: str = "image"
    channels: int = 1  # of pixels; those of the image for the source 'image'
    stride: int = 1
    classes: int = 0
    embedding: int = 64
    loss: str = "mse"
    trim: float = 0.0

    @classmethod
    def from_section(cls, values: Mapping[str, Any], name: str, channels: int) -> Modality:
        """From a section whose keys are checked here; channels: of the image.

        Raises:
            ConfigError: names the key, the value and what serves.
        """
        where = f"method.modalities.{name}"
        check_keys(cls, values, where)
        made = cls(**values)
        check_choices(made, where, source=SOURCES, loss=LOSSES)
        labels = made.source == "colours" or made.classes > 0
        if labels != (made.loss == "cross_entropy") or labels != (made.classes > 1):
            raise ConfigError(
                f"{where}: labels have at least two classes and the loss 'cross_entropy', pixels neither; they have "
                f"{made.classes} and '{made.loss}'"
            )
        if labels and made.source not in ("colours", "given"):
            raise ConfigError(f"{where}.source '{made.source}' makes no labels; take 'colours', or classes 0")
        if made.stride < 1 or made.embedding < 1 or (made.stride > 1 and made.source not in ("colours", "given")):
            raise ConfigError(f"{where}.stride {made.stride} must be 1, except for 'colours' and 'given'")
        if not 0 <= made.trim < 0.5 or (made.trim and (labels or made.source != "given")):
            raise ConfigError(f"{where}.trim {made.trim} must be from 0 to below 0.5, and is for given maps of values")
        sources = {"image": channels, "luminance": 1, "edges": 1}
        return dataclasses.replace(made, channels=sources.get(made.source, made.channels))

    def side(self, patch_size: tuple[int, int]) -> tuple[int, int]:
        """Values (down, across) of the map that lie in a patch."""
        return patch_size[0] // self.stride, patch_size[1] // self.stride

    def outputs(self, patch_size: tuple[int, int]) -> int:
        """Values that are predicted for a patch."""
        side = self.side(patch_size)
        return side[0] * side[1] * (self.classes or self.channels)

    def of(
        self, batch: Mapping[str, Any], name: str, patch_size: tuple[int, int]
    ) -> Float[Array, "B h w c"] | Int[Array, "B h w"]:
        """The modality `name` of a batch."""
        images = batch["image"]
        if self.source == "given":
            if name not in batch:
                raise ConfigError(
                    f"method.modalities.{name}.source 'given' needs an array '{name}' in the batch, which has none; "
                    f"name its files in data.maps.{name}, or make it from the image ({', '.join(SOURCES[1:-1])})"
                )
            return self._given(batch[name])
        if self.source == "colours":
            return pseudo_modalities.colours(images, self.stride, self.classes)
        if self.source == "edges":
            return pseudo_modalities.edges(images, patch_size)
        return pseudo_modalities.luminance(images) if self.source == "luminance" else jnp.asarray(images)

    def _given(self, values: Any) -> Array:
        """Labels as whole numbers (B, h, w), values standardised where `trim` says so."""
        values = jnp.asarray(values)
        if self.classes:
            return (values[..., 0] if values.ndim == 4 else values).astype(jnp.int32)
        return trimmed_standardize(values, self.trim) if self.trim else values


Named = tuple[tuple[str, Modality], ...]
# For photographs without other modalities, in the shapes of MultiMAE's: three channels, one, and 133 labels.
PSEUDO: Named = (
    ("colours", Modality("colours", stride=4, classes=133, loss="cross_entropy")),
    ("edges", Modality("edges", loss="l1")),
    ("rgb", Modality(channels=3)),
)


def modalities_of(sections: Mapping[str, Any], channels: int) -> Named:
    """The modalities of `method.modalities`, by name in alphabetical order."""
    return tuple((name, Modality.from_section(values, name, channels)) for name, values in sorted(sections.items()))


@dataclasses.dataclass(frozen=True)
class Task:
    """One output: the modality that it is about, by name too; its number among the inputs, None where it is none;
    whether its patches are standardised."""

    name: str
    modality: Modality
    own: int | None
    standardised: bool


def tasks_of(known: Mapping[str, Modality], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> dict[str, Task]:
    """The outputs by name."""
    found = {}
    for output in outputs:
        name = output.removeprefix(NORM) if output not in known else output
        own = inputs.index(name) if name in inputs else None
        found[output] = Task(name, known[name], own, name != output)
    return found


def check_names(
    known: Mapping[str, Modality], inputs: tuple[str, ...], outputs: tuple[str, ...], patch_size: tuple[int, int]
) -> None:
    """Refuses inputs and outputs that are no modalities, and maps that do not fall into patches.

    Raises:
        ConfigError: names the key, the value and what serves.
    """
    pixels = tuple(f"{NORM}{name}" for name, modality in known.items() if not modality.classes)
    for key, names, allowed in (("inputs", inputs, tuple(known)), ("outputs", outputs, (*known, *pixels))):
        if not names or not set(names) <= set(allowed) or len(set(names)) < len(names):
            raise ConfigError(f"method.{key} {names} must name some of {', '.join(allowed)}, each once")
    if not any(known[name].source == "image" for name in inputs):
        raise ConfigError(f"method.inputs {inputs} must have a modality of the source 'image', by which it is judged")
    for name, modality in known.items():
        if any(side % modality.stride for side in patch_size):
            raise ConfigError(
                f"method.modalities.{name}.stride {modality.stride} does not divide model.patch_size {patch_size}; "
                f"give a divisor of {math.gcd(*patch_size)}"
            )
