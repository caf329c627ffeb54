"""transformers' DINOv2: Dinov2Model and, with registers, Dinov2WithRegistersModel, as encoders.

The two resize their positions for other images by different rules, both here: bicubic without antialias, and with it.
The authors' own code for the former scales by (new side + 0.1) / side, which `model.position_offset=0.1` asks for.
Their classifiers join the class token with the mean of the patches, which no classifier here does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Arrays, Format, Probe
from mim_jax.interop.huggingface import common
from mim_jax.interop.huggingface.vit import positions
from mim_jax.interop.huggingface.vit_mae import OLD_BLOCK
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED, fixed_table
from mim_jax.interop.rules import LINEAR, PATCHES, dense, fused, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig

PLAIN, REGISTERS = "Dinov2Model", "Dinov2WithRegistersModel"
PREFIXES = {PLAIN: "dinov2.", REGISTERS: "dinov2_with_registers."}
TABLE = "embeddings.position_embeddings"
IGNORED = {**common.HEADS, r"embeddings\.mask_token$": "no part of the encoder"}
SPELLINGS = {  # of transformers 4 ('old', which 5 writes too) and of the modules of 5
    "old": (OLD_BLOCK["qkv"], OLD_BLOCK["proj"], ("mlp.weights_in",), "mlp.weights_out"),
    "new": (
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attention.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
    ),
}


def block(theirs: str, ours: str, spelling: str, swiglu: bool) -> tuple[Rule, ...]:
    """A block; the gated perceptron has gate and value side by side in one matrix, in both ours and the old files."""
    qkv, proj, gated, out = SPELLINGS[spelling]
    first, last = (gated, out) if swiglu else (("mlp.fc1",), "mlp.fc2")
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *fused(tuple(f"{theirs}.{name}" for name in qkv), f"{ours}/attn/qkv"),
        *dense(f"{theirs}.{proj}", f"{ours}/attn/proj"),
        *same(f"{theirs}.layer_scale1.lambda1", f"{ours}/gamma_1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        Rule(tuple(f"{theirs}.{name}.weight" for name in first), (f"{ours}/mlp/fc1/kernel",), LINEAR),
        Rule(tuple(f"{theirs}.{name}.bias" for name in first), (f"{ours}/mlp/fc1/bias",)),
        *dense(f"{theirs}.{last}", f"{ours}/mlp/fc2"),
        *same(f"{theirs}.layer_scale2.lambda1", f"{ours}/gamma_2"),
    )


def layout(name: str) -> Callable[[Any, Collection[str]], Layout]:
    """`Format.layout` of a class."""

    def made(method: Method, names: Collection[str]) -> Layout:
        prefix, config = common.prefix_of(names, PREFIXES[name]), method.model
        spelling = "new" if any(".attention.q_proj." in key for key in names) else "old"
        rules = (
            *same(f"{prefix}embeddings.cls_token", "encoder/cls_token"),
            *same(f"{prefix}embeddings.register_tokens", "encoder/register_tokens"),
            *same(f"{prefix}{TABLE}", "encoder/pos_embed"),
            *dense(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
            *block(f"{prefix}encoder.layer.{{i}}", "encoder/blocks_{i}", spelling, config.mlp == "swiglu"),
            *norm(f"{prefix}layernorm", "encoder/norm"),
        )
        table = fixed_table(config)
        tables = {} if table is None else {f"{prefix}{TABLE}": table}
        ignored = dict(IGNORED)
        return Layout(
            NameMap(under("params", rules), dict.fromkeys(tables, FIXED), ignored), patch_sizes(config), tables
        )

    return made


def settings(name: str) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings` of a class."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        common.need(source, "hidden_size", "num_hidden_layers", "num_attention_heads")
        c, swiglu = source.config, source.config.get("use_swiglu_ffn", False)
        if not swiglu:
            common.gelu_alone(source)
        scale = float(c.get("layerscale_value", 1.0))
        if scale <= 0:
            path = source.folder / "config.json"
            raise DataError(f"{path}: layerscale_value {scale} is not supported, only a positive one")
        model = dict(
            image_size=common.side(c.get("image_size", 224)),
            patch_size=common.side(c.get("patch_size", 14 if name == PLAIN else 16)),
            channels=c.get("num_channels", 3),
            width=c["hidden_size"],
            depth=c["num_hidden_layers"],
            heads=c["num_attention_heads"],
            mlp_ratio=float(c.get("mlp_ratio", 4)),
            layer_norm_eps=c.get("layer_norm_eps", 1e-6),
            qkv_bias="full" if c.get("qkv_bias", True) else "none",
            layer_scale=scale,
            relative_bias="none",
            cls_token=True,
            registers=c.get("num_register_tokens", 4) if name == REGISTERS else 0,
            mlp="swiglu" if swiglu else "mlp",
            position_offset=0.0,
            position_antialias=name == REGISTERS,
        )
        model["positions"] = positions(source, model)
        return {"model": model, "data": common.pixels(source)}

    return read


def refusal(name: str) -> Callable[[Any], str]:
    """`Format.refusal` of a class."""

    def reason(method: Any) -> str:
        c = method.model
        if not isinstance(c, VitConfig):
            return "the encoder is no plain vision transformer"
        if not c.cls_token or c.positions == "none":
            return "it has a class token and positions"
        if not c.layer_scale:
            return "it scales every branch, which model.layer_scale 0 does not"
        if c.relative_bias != "none" or c.qkv_bias == "qv":
            return "it knows no relative positions or missing key bias"
        if c.mlp == "swiglu_exact":
            return "its gated perceptrons have other widths (model.mlp 'swiglu')"
        if int(c.mlp_ratio) != c.mlp_ratio:
            return "its config takes model.mlp_ratio as a whole number"
        if name == REGISTERS and not c.registers:
            return "it has registers"
        if not common.final_norm(method):
            return "it ends with a norm, which mean pooling replaces (method.pooling)"
        return ""

    return reason


def config(name: str, model_type: str) -> Callable[[Any], dict[str, Any]]:
    """`Format.config` of a class."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        found = common.vit_config(c, model_type, name)
        del found["intermediate_size"]
        own = {"num_register_tokens": c.registers} if name == REGISTERS else {"use_mask_token": False}
        return (
            found
            | own
            | {
                "mlp_ratio": int(c.mlp_ratio),
                "qkv_bias": c.qkv_bias == "full",
                "layerscale_value": c.layer_scale,
                "use_swiglu_ffn": c.mlp == "swiglu",
            }
        )

    return write


def mask_token(method: Any, arrays: Arrays) -> Arrays:
    """The token of hidden patches that the class with registers always has, as it starts there: zero."""
    return {"embeddings.mask_token": np.zeros((1, method.model.width), np.float32)}


def theirs(name: str) -> Callable[[Source], Probe]:
    """`Format.theirs`: what the class says, registers left out, as ours leaves them out."""

    def load(source: Source) -> Probe:
        model = common.load(source, common.architecture(source) or name).base_model
        registers = np.arange(1, 1 + getattr(model.config, "num_register_tokens", 0))

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            found = common.named_outputs(common.call(model, images))
            return {key: np.delete(array, registers, axis=1) for key, array in found.items()}

        return run

    return load


def encoder(name: str, model_type: str, *switches: str, **choice: Any) -> Format:
    """The format of a class. switches: as in `Format`."""
    return Format(
        name,
        "encoder",
        accepts=common.is_class(name, name.replace("Model", "ForImageClassification")),
        settings=settings(name),
        refusal=refusal(name),
        layout=layout(name),
        config=config(name, model_type),
        theirs=theirs(name),
        switches=("mlp", *switches),
        **choice,
    )


FORMATS = (
    encoder(PLAIN, "dinov2"),
    encoder(REGISTERS, "dinov2_with_registers", "registers", buffers=mask_token),
)
