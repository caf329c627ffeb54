"""keyu-tian/SparK: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain, train
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule, to_theirs
from mim_jax.interop.rules import LINEAR, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.masking.mask import Mask, mask_from_hidden
from mim_jax.methods.base import Method, Output, Progress, Variables
from mim_jax.methods.spark import NORMS, SparK
from mim_jax.models.conv_config import ConvConfig
from mim_jax.nn.patches import unpatchify

CONV = "o i h w -> h w i o"
TRANSPOSED = "i o h w -> h w o i"
STAGES = range(4)


def conv(theirs: str, ours: str, pattern: str = CONV) -> tuple[Rule, ...]:
    """Weight and, where there is one, bias of a convolution or linear layer."""
    weights = (Rule((f"{theirs}.weight",), (f"params/{ours}/kernel",), pattern),)
    return weights + same(f"{theirs}.bias", f"params/{ours}/bias")


def batch_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Scale and shift, and the running statistics."""
    statistics = same(f"{theirs}.running_mean", f"extra/{ours}/mean") + same(
        f"{theirs}.running_var", f"extra/{ours}/var"
    )
    return under("params", norm(theirs, ours)) + statistics


def resnet(net: str = "") -> tuple[Rule, ...]:
    """timm's ResNet, `net` being what its names start with; it counts stages from 1."""
    rules = conv(f"{net}conv1", "encoder/conv1") + batch_norm(f"{net}bn1", "encoder/bn1")
    for stage in STAGES:
        theirs, ours = f"{net}layer{stage + 1}.{{b}}", f"encoder/stage_{stage}_block_{{b}}"
        rules += conv(f"{theirs}.conv{{n}}", f"{ours}/conv{{n}}") + batch_norm(f"{theirs}.bn{{n}}", f"{ours}/bn{{n}}")
        rules += conv(f"{theirs}.downsample.0", f"{ours}/downsample_conv")
        rules += batch_norm(f"{theirs}.downsample.1", f"{ours}/downsample_norm")
    return rules


def convnext(net: str = "") -> tuple[Rule, ...]:
    """ConvNeXt as its authors name it, `net` being what its names start with."""
    rules: tuple[Rule, ...] = ()
    for stage in STAGES:
        # The stem's norm comes after its convolution, the others' before.
        first, second = ("conv", "norm") if stage == 0 else ("norm", "conv")
        for place, kind in enumerate((first, second)):
            theirs, ours = f"{net}downsample_layers.{stage}.{place}", f"encoder/downsample_{stage}/{kind}"
            rules += conv(theirs, ours) if kind == "conv" else under("params", norm(theirs, ours))
    theirs, ours = f"{net}stages.{{s}}.{{b}}", "encoder/stage_{s}_block_{b}"
    rules += conv(f"{theirs}.dwconv", f"{ours}/dwconv") + under("params", norm(f"{theirs}.norm", f"{ours}/norm"))
    for name in ("pwconv1", "pwconv2"):
        rules += conv(f"{theirs}.{name}", f"{ours}/{name}", LINEAR)
    return rules + same(f"{theirs}.gamma", f"params/{ours}/gamma")


REST = (
    *batch_norm("densify_norms.{i}", "densify/norm_{i}"),
    Rule(("mask_tokens.{i}",), ("params/densify/mask_token_{i}",), "1 c 1 1 -> c"),
    *conv("densify_projs.{i}", "densify/proj_{i}"),
    *conv("dense_decoder.dec.{i}.up_sample", "decoder/blocks_{i}/up", TRANSPOSED),
    *conv("dense_decoder.dec.{i}.conv.0", "decoder/blocks_{i}/conv1"),
    *batch_norm("dense_decoder.dec.{i}.conv.1", "decoder/blocks_{i}/norm1"),
    *conv("dense_decoder.dec.{i}.conv.3", "decoder/blocks_{i}/conv2"),
    *batch_norm("dense_decoder.dec.{i}.conv.4", "decoder/blocks_{i}/norm2"),
    *conv("dense_decoder.proj", "decoder/proj"),
)
IGNORED = {
    r"num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use",
    r"^(imn_m|imn_s|norm_black)$": "buffers that the original never reads",
}
NET = "sparse_encoder.sp_cnn."
ENCODERS = {"resnet": resnet, "convnext": convnext}
HEADS = {
    "resnet": conv("fc", "head", LINEAR),
    "convnext": conv("head", "head", LINEAR) + under("params", norm("norm", "fc_norm")),
}


def layout(method: SparK) -> Layout:
    """The pretrained network."""
    return Layout(NameMap((*ENCODERS[method.model.arch](NET), *REST), ignored=IGNORED))


def encoder_layout(method: Method) -> Layout:
    """The encoder alone, as it is published: in timm's names (ResNet) or those of its authors (ConvNeXt)."""
    return Layout(NameMap(ENCODERS[method.model.arch](), ignored=IGNORED))


def classifier_layout(method: Method) -> Layout:
    """The fine-tuned network."""
    arch = method.model.arch
    return Layout(NameMap((*ENCODERS[arch](), *HEADS[arch]), ignored=IGNORED))


def method_of(case: Case) -> SparK:
    """SparK as a case asks for it.

    Raises:
        VerifyError: drop path, whose draws no case holds.
    """
    c = case.config
    if c.get("drop_path", 0.0):
        raise VerifyError(f"{case.folder}: drop_path {c['drop_path']} needs the draws, which the case does not hold")
    model = dict(
        image_size=pair(c["image_size"], "image_size"),
        channels=int(case.inputs["images"].shape[-1]),
        arch=c["arch"],
        width=tuple(c["stage_widths"]),
        depth=tuple(c["depths"]),
    )
    if c["arch"] == "resnet":
        model |= dict(block=c.get("block", "bottleneck"), stem_width=int(c.get("stem_width", 64)))
    else:
        model |= dict(layer_scale=float(c.get("layer_scale_init", 1e-6)))
    norm = str(c.get("densify_norm", "auto")).lower()
    settings = dict(mask_ratio=c["mask_ratio"], decoder_width=c["decoder_width"])
    # The original takes any other word for no norm at all.
    return SparK.from_config(model, {**settings, "densify_norm": norm if norm in NORMS else "none"})


def subject(case: Case) -> Subject:
    """The method, its names, and the active cells of the case as a mask."""
    method = method_of(case)
    grid = method.model.grid

    def inputs(arrays: Mapping[str, Any]):
        images, active = jnp.asarray(arrays["images"]), jnp.asarray(arrays["active"]).astype(bool)
        if active.shape[1:] != grid:
            raise VerifyError(f"{case.folder}: active cells of shape {active.shape} do not fit the grid {grid}")
        return {"image": images}, {"mask": mask_of(active), "drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        trace = output.trace
        named = {f"features_{i}": x for i, x in enumerate(trace["features"])}
        named |= {f"to_decoder_{i}": x for i, x in enumerate(trace["to_decoder"])}
        return {**named, "reconstruction": unpatchify(trace["pred"], method.model.cell, grid), **trace}

    return Subject(method, layout(method), inputs, outputs)


def mask_of(active: Any) -> Mask:
    """The mask of given active cells; index lists where every image has as many."""
    hidden, grid = ~active.reshape(len(active), -1), (active.shape[1], active.shape[2])
    counts = {int(n) for n in hidden.sum(1)}
    return mask_from_hidden(hidden, counts.pop(), grid) if len(counts) == 1 else Mask(hidden, grid=grid)


def run_pretrain(case: Case) -> Result:
    """One pass, and the running statistics after it."""
    target = subject(case)
    moved: dict[str, Any] = {}

    def outputs(output: Output) -> dict[str, Any]:
        batch, _ = target.inputs(case.inputs)
        start = target.variables(case, batch)
        extra = target.method.update(start.extra, start.params, output, Progress.at(0, 1, 1))
        after = to_theirs(target.layout.names, Variables(params={}, extra=extra), target.layout.sizes)
        moved.update({f"after.{name}": value for name, value in after.items()})
        return {**target.outputs(output), **moved}

    return pretrain.run(case, Subject(target.method, target.layout, target.inputs, outputs))


SYSTEM = System(
    upstream="keyu-tian/SparK",
    kinds={"pretrain": run_pretrain, "train": lambda case: train.run(case, subject(case))},
)


def buffers(method: SparK, arrays: Arrays) -> Arrays:
    """Counters, and three buffers without use."""
    black = {"norm_black": np.zeros((1, 3, *method.model.image_size), np.float32)}
    means = dict.fromkeys(("imn_m", "imn_s"), np.zeros((1, 3, 1, 1), np.float32))
    return authors.counters(method, arrays) | means | black


def published(source: Source) -> Arrays:
    """The arrays of a published encoder, or of the one in a whole checkpoint."""
    arrays = authors.network(source)
    return authors.below(arrays, NET) or arrays


def shows(arrays: Arrays, net: str = "") -> dict[str, Any]:
    """Sizes of either encoder."""
    if f"{net}conv1.weight" in arrays:
        depth = tuple(authors.count(arrays, f"{net}layer{stage + 1}.") for stage in STAGES)
        return {"model.arch": "resnet", "model.depth": depth, "model.block": _block(arrays, net)}
    depth = tuple(authors.count(arrays, f"{net}stages.{stage}.") for stage in STAGES)
    widths = (authors.shape(arrays, f"{net}stages.{stage}.0.norm.weight", 1) for stage in STAGES)
    return {"model.arch": "convnext", "model.depth": depth, "model.width": sum(widths, ())}


def _block(arrays: Arrays, net: str) -> str:
    return "bottleneck" if f"{net}layer1.0.conv3.weight" in arrays else "basic"


def is_encoder(arrays: Arrays, net: str = "") -> bool:
    """Either encoder."""
    first = ("conv1.weight", "layer4.0.conv1.weight"), ("downsample_layers.0.0.weight", "stages.3.0.dwconv.weight")
    return any(has(arrays, *(f"{net}{name}" for name in names)) for names in first)


def encoder_refusal(method: Method) -> str:
    """What neither of the authors' encoders can be."""
    if not isinstance(method.model, ConvConfig):
        return "its encoder is a ResNet or ConvNeXt"
    return authors.needs(method.model, {"stages": (4,), "stem_stride": (4,)})


def refusal(method: SparK) -> str:
    """What the authors' network cannot be: images are squares of three channels."""
    square = (method.model.image_size[0],) * 2
    return encoder_refusal(method) or authors.needs(method.model, {"image_size": (square,), "channels": (3,)})


FORMATS = (
    authors.checkpoint(
        "spark",
        "all",
        accepts=lambda arrays: is_encoder(arrays, NET) and has(arrays, "mask_tokens.0", "dense_decoder.proj.weight"),
        shows=lambda arrays: shows(arrays, NET),
        layout=layout,
        refusal=refusal,
        buffers=buffers,
        nest=lambda arrays: {"module": arrays},
        methods=("spark",),
    ),
    authors.checkpoint(
        "spark",
        "encoder",
        accepts=is_encoder,
        shows=shows,
        layout=encoder_layout,
        refusal=encoder_refusal,
        state=published,
        buffers=authors.counters,
        nest=dict,
        methods=("spark",),
    ),
    authors.checkpoint(
        "spark",
        "classifier",
        accepts=lambda arrays: is_encoder(arrays) and ("fc.weight" in arrays or "head.weight" in arrays),
        shows=shows,
        layout=classifier_layout,
        refusal=encoder_refusal,
        settings=lambda arrays: {
            "method": {"classes": len(arrays["fc.weight" if "fc.weight" in arrays else "head.weight"])}
        },
        buffers=authors.counters,
        nest=lambda arrays: {"module": arrays},
    ),
)
