"""timm's ResNet (resnet18 to resnet200), as an encoder or a classifier, with the statistics of its batch norms."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Arrays
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.original.spark import batch_norm, conv
from mim_jax.interop.rules import dense, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.timm import common, modules
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method
from mim_jax.models.conv_config import ConvConfig

STAGES = 4  # which timm counts from 1
EPSILON = 1e-5
STEM = 64
BLOCKS = {"BasicBlock": "basic", "Bottleneck": "bottleneck"}
NAMES: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
    ("bottleneck", (3, 24, 36, 3)): "resnet200",
}
USUAL = {"basic": "resnet18", "bottleneck": "resnet50"}
BASIC = ("resnet18", "resnet34")
COUNTERS = {r"num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}


def facts(model: Any) -> dict[str, Any]:
    """`Family.facts`."""
    stages = [getattr(model, f"layer{stage + 1}") for stage in range(STAGES)]
    if type(model.conv1).__name__ != "Conv2d" or type(model.maxpool).__name__ != "MaxPool2d":
        raise DataError("has another stem than one convolution of 7 x 7 and max pooling")
    layers = list(model.modules())
    if any(layer.eps != EPSILON for layer in layers if type(layer).__name__ == "BatchNorm2d"):
        raise DataError(f"has batch norms with another epsilon than {EPSILON}")
    if any(layer.dilation != (1, 1) or layer.groups != 1 for layer in layers if type(layer).__name__ == "Conv2d"):
        raise DataError("has dilated or grouped convolutions, which ours does not have")
    return dict(
        in_chans=model.conv1.in_channels,
        layers=tuple(len(stage) for stage in stages),
        channels=tuple(stage[0].bn1.num_features for stage in stages),
        block=BLOCKS[type(stages[0][0]).__name__],
        global_pool=model.global_pool.pool_type,
        input_size=model.pretrained_cfg["input_size"],
    )


FAMILY = Family(
    name="ResNet",
    models=r"resnet\d",
    mark=r"layer1\.0\.conv1\.weight",
    head="fc",
    stem="conv1",
    layers=frozenset({"Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Linear", *BLOCKS, *common.POOLS}),
    arguments=("in_chans", "layers", "channels", "global_pool"),
    exported=dict.fromkeys((*USUAL.values(), *NAMES.values()), 0.0),
    facts=facts,
    channels="first",
    blocks=lambda model: [f"layer{stage + 1}" for stage in range(STAGES)],
)


def settings(classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        found = modules.facts(source, FAMILY)
        common.mean_pooling(source, found, classifier)
        model = dict(
            arch="resnet",
            image_size=common.pair(found["input_size"][-2:]),
            channels=found["in_chans"],
            block=found.get("block") or ("basic" if common.named(source) in BASIC else "bottleneck"),
            width=tuple(found["channels"]),
            depth=tuple(found["layers"]),
            stem_width=STEM,
            stem_stride=4,
        )
        method = {"classes": found["num_classes"]} if classifier else {}
        return {"model": model, "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def rules(classifier: bool) -> tuple[Rule, ...]:
    """Names of the encoder and of the classifier."""
    found = conv("conv1", "encoder/conv1") + batch_norm("bn1", "encoder/bn1")
    for stage in range(STAGES):
        theirs, ours = f"layer{stage + 1}.{{b}}", f"encoder/stage_{stage}_block_{{b}}"
        found += conv(f"{theirs}.conv{{n}}", f"{ours}/conv{{n}}") + batch_norm(f"{theirs}.bn{{n}}", f"{ours}/bn{{n}}")
        found += conv(f"{theirs}.downsample.0", f"{ours}/downsample_conv")
        found += batch_norm(f"{theirs}.downsample.1", f"{ours}/downsample_norm")
    return found + (under("params", dense("fc", "head")) if classifier else ())


def layout(classifier: bool) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout`."""
    ignored = COUNTERS | ({} if classifier else {FAMILY.head_arrays(): common.OTHER_CLASSIFIER})
    return lambda method, names: Layout(NameMap(rules(classifier), ignored=ignored))


def refusal(method: Method) -> str:
    """`Format.refusal`."""
    c = method.model
    if not isinstance(c, ConvConfig) or c.arch != "resnet":
        return "the encoder is no ResNet"
    if c.stages != STAGES or c.stem_stride != 4 or c.stem_width != STEM:
        return (
            f"it has {STAGES} stages, a stem of {STEM} channels and stride 4, not {c.stages} stages, {c.stem_width} "
            f"channels and stride {c.stem_stride}"
        )
    return ""


def counters(method: Method, arrays: Arrays) -> Arrays:
    """`Format.buffers`: how many batches each batch norm has seen, which only a norm without momentum uses."""
    norms = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    return {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in norms}


def config(classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: ConvConfig = method.model
        arguments = dict(
            num_classes=method.classes if classifier else 0,
            in_chans=c.channels,
            layers=list(c.depth),
            channels=list(c.width),
            global_pool="avg",
        )
        name = NAMES.get((c.block, c.depth), USUAL[c.block])
        return common.written_config(FAMILY, name, arguments, c.outputs[-1], fixed=False)

    return write


FORMATS = modules.both_parts(
    FAMILY,
    settings=settings,
    refusal=refusal,
    layout=layout,
    config=config,
    buffers=counters,
)
