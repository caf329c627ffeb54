"""timm's ConvNeXt (convnext_tiny, small, base, large, xlarge), as an encoder or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Arrays
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.original.spark import conv
from mim_jax.interop.rules import LINEAR, dense, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.timm import common, modules
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method
from mim_jax.models.conv_config import ConvConfig

STAGES = 4
EPSILON = 1e-6
HEAD_NORM = "the norm after pooling is part of the classifier, although timm keeps it without one"
NAMES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): "convnext_tiny",
    ((96, 192, 384, 768), (3, 3, 27, 3)): "convnext_small",
    ((192, 384, 768, 1536), (3, 3, 27, 3)): "convnext_large",
    ((256, 512, 1024, 2048), (3, 3, 27, 3)): "convnext_xlarge",
}
USUAL = "convnext_base"


def facts(model: Any) -> dict[str, Any]:
    """`Family.facts`."""
    blocks = [block for stage in model.stages for block in stage.blocks]
    if len(model.stem) != 2 or type(model.stages[0].downsample).__name__ != "Identity":
        raise DataError("has another stem than one convolution over whole patches, or halves the resolution after it")
    if type(model.norm_pre).__name__ != "Identity" or type(model.head.pre_logits).__name__ != "Identity":
        raise DataError("has a norm before pooling or a hidden layer in its head, which ours does not have")
    if any(block.use_conv_mlp for block in blocks):
        raise DataError("has convolutions for its perceptrons (conv_mlp), which is not supported")
    if any(block.conv_dw.dilation != (1, 1) for block in blocks):
        raise DataError("has dilated convolutions (output_stride), which ours does not have")
    return dict(
        in_chans=model.stem[0].in_channels,
        patch_size=model.stem[0].stride[0],
        depths=tuple(len(stage.blocks) for stage in model.stages),
        dims=tuple(stage.blocks[0].conv_dw.out_channels for stage in model.stages),
        # The start of the scale is not kept in the model; what is trained from here has its scale already.
        ls_init_value=0.0 if blocks[0].gamma is None else EPSILON,
        global_pool=model.head.global_pool.pool_type,
        input_size=model.pretrained_cfg["input_size"],
    )


FAMILY = Family(
    name="ConvNeXt",
    models=r"convnext",
    mark=r"stages\.0\.blocks\.0\.conv_dw\.weight",
    head="head.fc",
    stem="stem.0",
    layers=frozenset(
        {"Conv2d", "ConvNeXtStage", "ConvNeXtBlock", "LayerNorm", "LayerNorm2d", "Linear", "Mlp", "GELU"}
        | {"NormMlpClassifierHead", *common.POOLS}
    ),
    arguments=("in_chans", "patch_size", "depths", "dims", "ls_init_value", "global_pool"),
    exported=dict.fromkeys((USUAL, *NAMES.values()), EPSILON),
    facts=facts,
    channels="first",
    blocks=lambda model: [f"stages.{i}" for i in range(len(model.stages))],
)


def settings(classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        found = modules.facts(source, FAMILY)
        common.mean_pooling(source, found, classifier)
        if found["norm_eps"] != EPSILON:
            raise DataError(f"{source.path}: layer norms with an epsilon of {found['norm_eps']}; ours have {EPSILON}")
        model = dict(
            arch="convnext",
            image_size=common.pair(found["input_size"][-2:]),
            channels=found["in_chans"],
            width=tuple(found["dims"]),
            depth=tuple(found["depths"]),
            stem_stride=found["patch_size"],
            layer_scale=found["ls_init_value"],
        )
        method = {"classes": found["num_classes"]} if classifier else {}
        return {"model": model, "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def downsample(stage: int) -> tuple[Rule, ...]:
    """Before a stage: norm and convolution. In the stem, before stage 0, they come in the other order."""
    theirs, ours = f"stages.{stage}.downsample", f"encoder/downsample_{stage}"
    return (*under("params", norm(f"{theirs}.0", f"{ours}/norm")), *conv(f"{theirs}.1", f"{ours}/conv"))


def rules(classifier: bool) -> tuple[Rule, ...]:
    """Names of the encoder and of the classifier."""
    theirs, ours = "stages.{s}.blocks.{b}", "encoder/stage_{s}_block_{b}"
    return (
        *conv("stem.0", "encoder/downsample_0/conv"),
        *under("params", norm("stem.1", "encoder/downsample_0/norm")),
        *(rule for stage in range(1, STAGES) for rule in downsample(stage)),
        *conv(f"{theirs}.conv_dw", f"{ours}/dwconv"),
        *under("params", norm(f"{theirs}.norm", f"{ours}/norm")),
        *conv(f"{theirs}.mlp.fc1", f"{ours}/pwconv1", LINEAR),
        *conv(f"{theirs}.mlp.fc2", f"{ours}/pwconv2", LINEAR),
        *under("params", same(f"{theirs}.gamma", f"{ours}/gamma")),
        *(under("params", (*norm("head.norm", "fc_norm"), *dense("head.fc", "head"))) if classifier else ()),
    )


def layout(classifier: bool) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout`."""
    ignored = {} if classifier else {FAMILY.head_arrays(): common.OTHER_CLASSIFIER, r"^head\.norm\.": HEAD_NORM}
    return lambda method, names: Layout(NameMap(rules(classifier), ignored=ignored))


def refusal(method: Method) -> str:
    """`Format.refusal`."""
    c = method.model
    if not isinstance(c, ConvConfig) or c.arch != "convnext":
        return "the encoder is no ConvNeXt"
    if c.stages != STAGES or c.stem_stride == 2:
        return f"it has four stages, not {c.stages}, and patches of 4 pixels or 1, not {c.stem_stride}"
    if not c.layer_scale:
        return "it has a layer scale"
    return ""


def head_norm(method: Method, arrays: Arrays) -> Arrays:
    """`Format.buffers` of an encoder: a norm that changes no more than a norm must, for the one that timm keeps."""
    width = method.model.outputs[-1]
    return {"head.norm.weight": np.ones(width, np.float32), "head.norm.bias": np.zeros(width, np.float32)}


def config(classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: ConvConfig = method.model
        arguments = dict(
            num_classes=method.classes if classifier else 0,
            in_chans=c.channels,
            patch_size=c.stem_stride,
            depths=list(c.depth),
            dims=list(c.width),
            ls_init_value=c.layer_scale,
            global_pool="avg",
        )
        name = NAMES.get((c.width, c.depth), USUAL)
        return common.written_config(FAMILY, name, arguments, c.outputs[-1], fixed=False)

    return write


FORMATS = modules.both_parts(
    FAMILY,
    settings=settings,
    refusal=refusal,
    layout=layout,
    config=config,
    encoder=dict(buffers=head_norm),
)
