"""What all families of timm share: how a model is named, built and loaded, and what its layers may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.source import Source

# Tables that old files hold and that timm no longer stores; our layouts compare them where they are there.
STORED_TABLES = re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")
# Layers that a trained model may have and that do nothing, or nothing of their own, at evaluation.
PASSIVE = {"Dropout", "DropPath", "PatchDropout", "Identity", "ModuleList", "Sequential", "Softmax", "Flatten"}
POOLS = {"SelectAdaptivePool2d", "FastAdaptiveAvgPool", "AdaptiveAvgPool2d"}
TOKENS = {  # where maps have their channels -> tokens in raster order
    "tokens": "b t d -> b t d",
    "last": "b h w d -> b (h w) d",
    "first": "b d h w -> b (h w) d",
}
OTHER_CLASSIFIER = "the classifier is no part of the encoder"


@dataclass(frozen=True)
class Family:
    """A class of models of timm.

    name: the class. models: how names of its models begin. mark: an array that only this family has. head, stem: the
    modules of the classifier's linear layer and of the first convolution. layers: classes that its modules may have
    besides the passive ones. arguments: what its constructor is told in `model_args` of an exported config.json.
    exported: names of models that exports use -> epsilon of their layer norms. facts: a model -> the same arguments,
    read off its modules; raises DataError where ours cannot be so. channels: where its maps have them (TOKENS).
    blocks: a model -> names of the modules whose outputs are compared.
    """

    name: str
    models: str
    mark: str
    head: str
    stem: str
    layers: frozenset[str]
    arguments: tuple[str, ...]
    exported: Mapping[str, float]
    facts: Callable[[Any], dict[str, Any]]
    channels: str
    blocks: Callable[[Any], list[str]]

    def holds(self, source: Source) -> bool:
        """Whether a source is of this family: by the name of its model, without one by its arrays."""
        name = named(source)
        if name:
            return bool(re.match(self.models, name))
        return any(re.fullmatch(self.mark, array) for array in source.state())

    def holds_classifier(self, source: Source) -> bool:
        return self.holds(source) and f"{self.head}.weight" in source.state()

    def head_arrays(self) -> str:
        """Regular expression of the arrays of the linear layer."""
        return rf"^{re.escape(self.head)}\.(weight|bias)$"


def named(source: Source) -> str:
    """The name of the model: of config.json beside the weights, else what the user gave; '' for neither."""
    return str(source.config.get("architecture") or source.given)


def mean_pooling(source: Source, found: Mapping[str, Any], classifier: bool) -> None:
    """Raises DataError for a classifier that does not take the mean over the last map."""
    if classifier and found["global_pool"] != "avg":
        raise DataError(f"{source.path}: global_pool '{found['global_pool']}' is not supported, only 'avg'")


def pixels(found: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The `data` settings; statistics of another number of channels belong to what was adapted, and say nothing."""
    return {key: value for key, value in found["pixels"].items() if len(value) == channels}


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a size given once or twice."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def either(size: Sequence[int]) -> int | list[int]:
    """A size as their arguments take it: one number for squares."""
    return size[0] if size[0] == size[1] else list(size)


def ratio(hidden: int, width: int) -> float:
    """The ratio from which both sides compute `hidden` as int(width * ratio)."""
    found = hidden / width
    return found if int(width * found) == hidden else float(np.nextafter(found, np.inf))


def written_config(family: Family, name: str, arguments: Mapping[str, Any], width: int, fixed: bool) -> dict[str, Any]:
    """config.json as timm's hub has it. width: of the features. fixed: whether images have one size only."""
    pretrained = {
        "num_classes": arguments["num_classes"],
        "fixed_input_size": fixed,
        "first_conv": family.stem,
        "classifier": family.head,
    }
    found = {"architecture": name, "num_classes": arguments["num_classes"], "num_features": width}
    # The number of classes is left to the user of the file, who may want another classifier.
    kept = {key: value for key, value in arguments.items() if key != "num_classes"}
    return {**found, "model_args": kept, "pretrained_cfg": pretrained}
