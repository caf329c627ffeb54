"""transformers' Swin and Swinv2 (Liu et al. ICCV 2021, CVPR 2022): encoder and classifier.

Files have the names of transformers 4 for both; the modules of Swin in 5 have others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Format, Probe
from mim_jax.interop.huggingface import common
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.rules import LINEAR, PATCHES, dense, fused, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.swin_case import linear, swin_tables
from mim_jax.interop.system import Layout
from mim_jax.methods.base import Method
from mim_jax.models.swin_config import SwinConfig

STEMS = {"swin": "Swin", "swinv2": "Swinv2"}  # of the names of the classes, by `model.arch` and `model_type` alike
EPSILON = 1e-5  # of the norms beside the blocks, which no config of theirs changes
ABSOLUTE = "the table of positions of Swinv2 has a row too many in transformers, whose model cannot run with it"
COMPUTED = "computed from the sizes of the model, not stored"
IGNORED = {r"mask_token$": "no part of the encoder", **common.HEADS}
OLD = ("attention.self", "query key value", "attention.output.dense", "intermediate.dense", "output.dense")
NEW = ("attention", "q_proj k_proj v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")


def block(arch: str, theirs: str, new: bool) -> tuple[Rule, ...]:
    """One block in the spelling of files (and of all of Swinv2), or of transformers 5's modules of Swin (`new`)."""
    ours = "encoder/stages_{s}/blocks_{i}"
    attention, names, proj, fc1, fc2 = NEW if new else OLD
    q, k, v = (f"{theirs}.{attention}.{name}" for name in names.split())
    table = f"{theirs}.{attention}{'.relative_position_bias' if new else ''}.relative_position_bias_table"
    if arch == "swin":
        own = (*fused((q, k, v), f"{ours}/attn/qkv"), *same(table, f"{ours}/attn/relative_bias/table"))
    else:
        mlp = f"{theirs}.{attention}.continuous_position_bias_mlp"
        own = (
            Rule((f"{q}.weight", f"{k}.weight", f"{v}.weight"), (f"{ours}/attn/qkv/kernel",), LINEAR),
            *same(f"{q}.bias", f"{ours}/attn/q_bias"),
            *same(f"{v}.bias", f"{ours}/attn/v_bias"),
            *same(f"{theirs}.{attention}.logit_scale", f"{ours}/attn/logit_scale"),
            *dense(f"{mlp}.0", f"{ours}/attn/position_mlp/fc1"),
            *linear(f"{mlp}.2", f"{ours}/attn/position_mlp/fc2"),
        )
    return (
        *own,
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        *dense(f"{theirs}.{proj}", f"{ours}/attn/proj"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *dense(f"{theirs}.{fc1}", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.{fc2}", f"{ours}/mlp/fc2"),
    )


def arrays(arch: str, prefix: str, new: bool) -> tuple[Rule, ...]:
    """Rules of the encoder."""
    stage, ours = f"{prefix}encoder.layers.{{s}}", "encoder/stages_{s}/downsample"
    return (
        *dense(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
        *norm(f"{prefix}embeddings.norm", "encoder/patch_norm"),
        *same(f"{prefix}embeddings.position_embeddings", "encoder/pos_embed"),
        *block(arch, f"{stage}.blocks.{{i}}", new),
        *linear(f"{stage}.downsample.reduction", f"{ours}/reduction"),
        *norm(f"{stage}.downsample.norm", f"{ours}/norm"),
        *norm(f"{prefix}layernorm", "encoder/norm"),
    )


def whole(method: Any, names: Collection[str], prefix: str, rest: tuple = (), ignored: Any = None) -> Layout:
    """Names, sizes and the tables that older files hold. rest: rules of what is no part of the encoder."""
    config: SwinConfig = method.model
    new = any(name.endswith("attention.q_proj.weight") for name in names)
    tables = {name: table for name, table in fixed(config, prefix).items() if name in names}
    rules = under("params", (*arrays(config.arch, prefix, new), *rest))
    sizes = dict(zip("pqc", (*config.patch_size, config.channels), strict=True))
    return Layout(NameMap(rules, dict.fromkeys(tables, COMPUTED), ignored or {}), sizes, tables)


def fixed(config: SwinConfig, prefix: str) -> dict[str, Any]:
    """The indices of every block's positions, and the offsets of version 2, which files of transformers 4 may hold."""
    tables = swin_tables(config, f"{prefix}encoder.").items()
    return {name.replace(".attn.", ".attention.self."): table for name, table in tables if ".attn." in name}


def encoder_layout(prefix: str) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout` of an encoder, alone or inside a class with a head."""
    return lambda method, names: whole(method, names, common.prefix_of(names, prefix), (), IGNORED)


def classifier_layout(prefix: str) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout` of a classifier."""
    token = {r"embeddings\.mask_token$": "nothing is hidden in fine-tuning"}
    return lambda method, names: whole(method, names, prefix, dense("classifier", "head"), token)


def sizes(source: Source) -> dict[str, Any]:
    """The section `model`.

    Raises:
        DataError: a size that config.json lacks, or what our encoder cannot be.
    """
    common.gelu_alone(source)
    common.need(source, "model_type", "embed_dim", "depths", "num_heads", "window_size")
    c, path = source.config, source.folder / "config.json"
    if c.get("layer_norm_eps", EPSILON) != EPSILON:
        raise DataError(
            f"{path}: layer_norm_eps {c['layer_norm_eps']} is that of the blocks alone, the other norms have "
            f"{EPSILON:g}, and an encoder here has one for all"
        )
    if c["model_type"] == "swinv2" and c.get("use_absolute_embeddings", False):
        raise DataError(f"{path}: use_absolute_embeddings true is not supported: {ABSOLUTE}; give another model")
    model = dict(
        arch=c["model_type"],
        image_size=common.side(c.get("image_size", 224)),
        patch_size=common.side(c.get("patch_size", 4)),
        channels=c.get("num_channels", 3),
        width=c["embed_dim"],
        depths=tuple(c["depths"]),
        heads=tuple(c["num_heads"]),
        window_size=c["window_size"],
        mlp_ratio=float(c.get("mlp_ratio", 4.0)),
        positions="learned" if c.get("use_absolute_embeddings", False) else "none",
        patch_norm=True,
        qkv_bias=c.get("qkv_bias", True),
        layer_norm_eps=EPSILON,
    )
    pretrained = tuple(c.get("pretrained_window_sizes") or ())
    if c["model_type"] == "swinv2" and any(pretrained):
        windows = SwinConfig.from_section(model).stage_window
        model["pretrained_windows"] = tuple(side or windows(stage) for stage, side in enumerate(pretrained))
    return model


def encoder_settings(source: Source) -> dict[str, Any]:
    return {"model": sizes(source), "data": common.pixels(source)}


def classifier_settings(source: Source) -> dict[str, Any]:
    return {"model": sizes(source), "method": {"classes": common.classes(source)}, "data": common.pixels(source)}


def refusal(arch: str) -> Callable[[Any], str]:
    """`Format.refusal`: what the classes cannot hold."""

    def reason(method: Any) -> str:
        c = method.model
        if not isinstance(c, SwinConfig) or c.arch != arch:
            return f"the encoder is no {STEMS[arch]}"
        if arch == "swinv2" and c.positions != "none":
            return ABSOLUTE
        if not c.patch_norm:
            return "it normalises the patch embedding (model.patch_norm)"
        if c.layer_norm_eps != EPSILON:
            return f"most of its norms have the epsilon {EPSILON:g} (model.layer_norm_eps)"
        small = [stage for stage in range(len(c.depths)) if c.stage_window(stage) != c.window_size]
        if arch == "swin" and small:
            return (
                f"its windows are {c.window_size} x {c.window_size} in all stages, and stage {small[0] + 1} is smaller"
            )
        return ""

    return reason


def config(name: str) -> Callable[[Any], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: SwinConfig = method.model
        second = {"pretrained_window_sizes": list(c.pretrained_windows or (0,) * len(c.depths))}
        return {
            "architectures": [name],
            "model_type": c.arch,
            "image_size": common.square(c.image_size, "model.image_size"),
            "patch_size": common.square(c.patch_size, "model.patch_size"),
            "num_channels": c.channels,
            "embed_dim": c.width,
            "depths": list(c.depths),
            "num_heads": list(c.heads),
            "window_size": c.window_size,
            **(second if c.arch == "swinv2" else {}),
            "mlp_ratio": c.mlp_ratio,
            "qkv_bias": c.qkv_bias,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "drop_path_rate": c.drop_path_rate,
            "hidden_act": "gelu",
            "use_absolute_embeddings": c.positions == "learned",
            "layer_norm_eps": c.layer_norm_eps,
            "encoder_stride": c.stride[0],
            **common.labels(method),
        }

    return write


def blocks(model: Any) -> list[Any]:
    """The blocks of all stages of their encoder; it tells of its stages alone, and that after the merging."""
    return [block for stage in model.base_model.encoder.layers for block in stage.blocks]


def theirs(name: str, part: str) -> Callable[[Source], Probe]:
    """`Format.theirs`: every block, and the tokens or the logits."""

    def load(source: Source) -> Probe:
        model = common.load(source, name if part == "classifier" else common.architecture(source) or name)

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            with common.watched(blocks(model)) as found:
                out = common.call(model if part == "classifier" else model.base_model, images)
            key = "logits" if part == "classifier" else "tokens"
            return {**found, key: common.as_tokens(out.logits if part == "classifier" else out.last_hidden_state)}

        return run

    return load


def formats_of(arch: str) -> tuple[Format, ...]:
    """Encoder and classifier of one version."""
    encoder, classifier = f"{STEMS[arch]}Model", f"{STEMS[arch]}ForImageClassification"
    return (
        Format(
            encoder,
            "encoder",
            accepts=common.is_class(encoder, classifier, f"{STEMS[arch]}ForMaskedImageModeling"),
            settings=encoder_settings,
            refusal=refusal(arch),
            layout=encoder_layout(f"{arch}."),
            config=config(encoder),
            theirs=theirs(encoder, "encoder"),
        ),
        Format(
            classifier,
            "classifier",
            accepts=common.is_class(classifier),
            settings=classifier_settings,
            refusal=refusal(arch),
            layout=classifier_layout(f"{arch}."),
            config=config(classifier),
            theirs=theirs(classifier, "classifier"),
        ),
    )


FORMATS = tuple(form for arch in STEMS for form in formats_of(arch))
