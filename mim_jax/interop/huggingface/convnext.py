"""transformers' ConvNext (Liu et al. CVPR 2022): encoder and classifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import nothing
from mim_jax.interop.huggingface import common
from mim_jax.interop.huggingface.conv_pair import ConvPair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.original.spark import conv
from mim_jax.interop.rules import LINEAR, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.models.conv_config import ConvConfig

EPSILON = 1e-6  # of all norms, by the authors and here; transformers' default for the last one is 1e-12
LAST_NORM = {r"^(convnext\.)?layernorm\.": "a norm of the pooled features, which the encoder alone does not have"}


def norms(theirs: str, ours: str) -> tuple[Rule, ...]:
    return under("params", norm(theirs, ours))


def arrays(config: ConvConfig, prefix: str) -> tuple[Rule, ...]:
    """Rules of the encoder."""
    stem, layer, ours = (
        f"{prefix}embeddings",
        f"{prefix}encoder.stages.{{s}}.layers.{{b}}",
        "encoder/stage_{s}_block_{b}",
    )
    between: tuple[Rule, ...] = ()
    for stage in range(1, config.stages):  # the first one's is the stem, whose norm comes second
        theirs = f"{prefix}encoder.stages.{stage}.downsampling_layer"
        between += norms(f"{theirs}.0", f"encoder/downsample_{stage}/norm")
        between += conv(f"{theirs}.1", f"encoder/downsample_{stage}/conv")
    return (
        *conv(f"{stem}.patch_embeddings", "encoder/downsample_0/conv"),
        *norms(f"{stem}.layernorm", "encoder/downsample_0/norm"),
        *between,
        *conv(f"{layer}.dwconv", f"{ours}/dwconv"),
        *norms(f"{layer}.layernorm", f"{ours}/norm"),
        *conv(f"{layer}.pwconv1", f"{ours}/pwconv1", LINEAR),
        *conv(f"{layer}.pwconv2", f"{ours}/pwconv2", LINEAR),
        *same(f"{layer}.layer_scale_parameter", f"params/{ours}/gamma"),
    )


def encoder_layout(method: Any, names: Collection[str]) -> Layout:
    """`Format.layout` of ConvNextModel, alone or inside the classifier."""
    rules = arrays(method.model, common.prefix_of(names, "convnext."))
    return Layout(NameMap(rules, ignored={**LAST_NORM, **common.HEADS}))


def classifier_layout(method: Any, names: Collection[str]) -> Layout:
    """`Format.layout` of ConvNextForImageClassification."""
    rest = (*norms("convnext.layernorm", "fc_norm"), *conv("classifier", "head", LINEAR))
    return Layout(NameMap((*arrays(method.model, "convnext."), *rest)))


def sizes(source: Source) -> dict[str, Any]:
    """The section `model`.

    Raises:
        DataError: a size that config.json lacks, or what our encoder cannot be.
    """
    common.gelu_alone(source)
    common.need(source, "hidden_sizes", "depths")
    c, path = source.config, source.folder / "config.json"
    if c.get("layer_norm_eps", 1e-12) > EPSILON:
        raise DataError(f"{path}: layer_norm_eps {c['layer_norm_eps']} is not supported, only {EPSILON:g} or less")
    stride = common.side(c.get("patch_size", 4))
    if stride[0] != stride[1]:
        raise DataError(f"{path}: patch_size {stride} is no square, which an encoder here needs")
    return dict(
        arch="convnext",
        block="depthwise",
        image_size=common.crop(source),
        channels=c.get("num_channels", 3),
        width=tuple(c["hidden_sizes"]),
        depth=tuple(c["depths"]),
        stem_stride=stride[0],
        layer_scale=max(float(c.get("layer_scale_init_value", 1e-6)), 0.0),
    )


def refusal(method: Any) -> str:
    """`Format.refusal`: what the classes cannot hold."""
    c = method.model
    return "" if isinstance(c, ConvConfig) and c.arch == "convnext" else "the encoder is no ConvNeXt"


def settings(method: Any) -> dict[str, Any]:
    """Their config.json."""
    c: ConvConfig = method.model
    return {
        "model_type": "convnext",
        "image_size": common.square(c.image_size, "model.image_size"),
        "num_channels": c.channels,
        "patch_size": c.stem_stride,
        "num_stages": c.stages,
        "hidden_sizes": list(c.width),
        "depths": list(c.depth),
        "hidden_act": "gelu",
        "layer_norm_eps": EPSILON,
        "layer_scale_init_value": c.layer_scale,
        "drop_path_rate": c.drop_path_rate,
    }


def last_norm(method: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The norm after the mean over the last map, which pretraining does not have, without scale and shift."""
    width = method.model.outputs[-1]
    return {"layernorm.weight": np.ones(width, np.float32), "layernorm.bias": np.zeros(width, np.float32)}


LAYOUTS = (encoder_layout, classifier_layout)
FORMATS = ConvPair("ConvNext", sizes, refusal, LAYOUTS, settings, buffers=(last_norm, nothing)).formats()
