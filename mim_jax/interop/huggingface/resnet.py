"""transformers' ResNet (He et al. CVPR 2016, with the stride in the 3 x 3 convolution): encoder and classifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.huggingface import common
from mim_jax.interop.huggingface.conv_pair import ConvPair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.original.spark import batch_norm, conv
from mim_jax.interop.rules import LINEAR
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.models.conv_config import ConvConfig

HEAD = "classifier.1"
COUNTER = {r"num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}
# What ours cannot be: key of their config -> (its default, the value that ours is).
FIXED = {
    "hidden_act": ("relu", "relu"),
    "downsample_in_first_stage": (False, False),
    "downsample_in_bottleneck": (False, False),
}


def layer(theirs: str, conv_name: str, norm_name: str) -> tuple[Rule, ...]:
    """A convolution and the batch norm after it."""
    return conv(f"{theirs}.convolution", conv_name) + batch_norm(f"{theirs}.normalization", norm_name)


def arrays(config: ConvConfig, prefix: str) -> tuple[Rule, ...]:
    """Rules of the encoder; they count the layers of a block from 0."""
    theirs, ours = f"{prefix}encoder.stages.{{s}}.layers.{{b}}", "encoder/stage_{s}_block_{b}"
    rules = layer(f"{prefix}embedder.embedder", "encoder/conv1", "encoder/bn1")
    for i in range(3 if config.block == "bottleneck" else 2):
        rules += layer(f"{theirs}.layer.{i}", f"{ours}/conv{i + 1}", f"{ours}/bn{i + 1}")
    return rules + layer(f"{theirs}.shortcut", f"{ours}/downsample_conv", f"{ours}/downsample_norm")


def encoder_layout(method: Any, names: Collection[str]) -> Layout:
    """`Format.layout` of ResNetModel, alone or inside the classifier."""
    rules = arrays(method.model, common.prefix_of(names, "resnet."))
    return Layout(NameMap(rules, ignored={**COUNTER, **common.HEADS}))


def classifier_layout(method: Any, names: Collection[str]) -> Layout:
    """`Format.layout` of ResNetForImageClassification."""
    return Layout(NameMap((*arrays(method.model, "resnet."), *conv(HEAD, "head", LINEAR)), ignored=COUNTER))


def sizes(source: Source) -> dict[str, Any]:
    """The section `model`; the size of the images is the preprocessor's.

    Raises:
        DataError: a size that config.json lacks, or what our encoder cannot be.
    """
    common.need(source, "hidden_sizes", "depths", "embedding_size")
    c, path = source.config, source.folder / "config.json"
    for key, (default, ours) in FIXED.items():
        if c.get(key, default) != ours:
            raise DataError(f"{path}: {key} {c[key]} is not supported, only {ours}")
    kind, widths = c.get("layer_type", "bottleneck"), tuple(c["hidden_sizes"])
    if kind == "bottleneck" and any(width % 4 for width in widths):
        raise DataError(f"{path}: hidden_sizes {widths} of bottleneck layers must be multiples of 4")
    return dict(
        arch="resnet",
        block=kind,
        image_size=common.crop(source),
        channels=c.get("num_channels", 3),
        width=tuple(width // 4 for width in widths) if kind == "bottleneck" else widths,
        depth=tuple(c["depths"]),
        stem_width=c["embedding_size"],
        stem_stride=4,
    )


def refusal(method: Any) -> str:
    """`Format.refusal`: what the classes cannot hold."""
    c = method.model
    if not isinstance(c, ConvConfig) or c.arch != "resnet":
        return "the encoder is no ResNet"
    return "" if c.stem_stride == 4 else "its stem has a stride of 4 (model.stem_stride)"


def settings(method: Any) -> dict[str, Any]:
    """Their config.json; the size of the images, which they do not need, is written for ours."""
    c: ConvConfig = method.model
    return {
        "model_type": "resnet",
        "image_size": common.square(c.image_size, "model.image_size"),
        "num_channels": c.channels,
        "embedding_size": c.stem_width,
        "hidden_sizes": list(c.outputs),
        "depths": list(c.depth),
        "layer_type": c.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def counters(method: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The number of batches seen, which their batch norms keep beside the statistics."""
    names = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    return {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in names}


LAYOUTS, BUFFERS = (encoder_layout, classifier_layout), (counters, counters)
FORMATS = ConvPair("ResNet", sizes, refusal, LAYOUTS, settings, f"{HEAD}.weight", BUFFERS).formats()
