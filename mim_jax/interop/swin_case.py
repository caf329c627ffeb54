"""What cases of Swin transformers have in common: names of the arrays, fixed tables, sizes of the model."""

from __future__ import annotations

from typing import Any

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.case import Case
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import Rule
from mim_jax.interop.rules import LINEAR, PATCHES, dense, norm, same, timm_block
from mim_jax.models.swin_config import SwinConfig
from mim_jax.nn.relative import relative_index
from mim_jax.nn.window import log_coordinates, shift_mask


def linear(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A linear layer without bias."""
    return (Rule((f"{theirs}.weight",), (f"{ours}/kernel",), LINEAR),)


def swin_rules(prefix: str = "") -> tuple[Rule, ...]:
    """Their Swin transformers, both versions."""
    theirs, ours = f"{prefix}layers.{{s}}", "encoder/stages_{s}"
    block, attention = (f"{theirs}.blocks.{{i}}", f"{ours}/blocks_{{i}}"), f"{ours}/blocks_{{i}}/attn"
    return (
        *same(f"{prefix}mask_token", "encoder/mask_token"),
        *same(f"{prefix}absolute_pos_embed", "encoder/pos_embed"),
        *dense(f"{prefix}patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
        *norm(f"{prefix}patch_embed.norm", "encoder/patch_norm"),
        *timm_block(*block),
        *same(f"{block[0]}.attn.relative_position_bias_table", f"{attention}/relative_bias/table"),
        *same(f"{block[0]}.attn.q_bias", f"{attention}/q_bias"),
        *same(f"{block[0]}.attn.v_bias", f"{attention}/v_bias"),
        *same(f"{block[0]}.attn.logit_scale", f"{attention}/logit_scale"),
        *dense(f"{block[0]}.attn.cpb_mlp.0", f"{attention}/position_mlp/fc1"),
        *linear(f"{block[0]}.attn.cpb_mlp.2", f"{attention}/position_mlp/fc2"),
        *linear(f"{theirs}.downsample.reduction", f"{ours}/downsample/reduction"),
        *norm(f"{theirs}.downsample.norm", f"{ours}/downsample/norm"),
        *norm(f"{prefix}norm", "encoder/norm"),
    )


def swin_tables(config: SwinConfig, prefix: str) -> dict[str, Any]:
    """Indices, masks of shifted windows and log-spaced offsets of every block."""
    found: dict[str, Any] = {}
    for stage, depth in enumerate(config.depths):
        window = (config.stage_window(stage),) * 2
        pretrained = (config.pretrained_windows[stage],) * 2 if config.pretrained_windows else None
        offsets = log_coordinates(window, pretrained).reshape(1, 2 * window[0] - 1, 2 * window[1] - 1, 2)
        for block in range(depth):
            name, shift = f"{prefix}layers.{stage}.blocks.{block}", config.shift(stage, block)
            found[f"{name}.attn.relative_position_index"] = relative_index(window, cls_token=False)
            if shift:
                found[f"{name}.attn_mask"] = shift_mask(config.stage_grid(stage), window, shift)
            if config.arch == "swinv2":
                found[f"{name}.attn.relative_coords_table"] = offsets
    return found


def swin_config(case: Case, arch: str) -> SwinConfig:
    """The encoder that a case asks for; the images say how many channels there are.

    Raises:
        VerifyError: drop path, whose draws no case holds, or images of another size than the config says.
    """
    c, images = case.config, case.inputs["images"]
    if c.get("drop_path", 0.0):
        raise VerifyError(f"{case.folder}: drop_path {c['drop_path']} needs the draws, which the case does not hold")
    windows = tuple(c.get("pretrained_window_sizes") or ())
    config = SwinConfig.from_section(
        dict(
            arch=arch,
            image_size=pair(c["image_size"], "image_size"),
            channels=int(images.shape[-1]),
            patch_size=pair(c["patch_size"], "patch_size"),
            width=c["width"],
            depths=tuple(c["depths"]),
            heads=tuple(c["heads"]),
            window_size=c["window"],
            pretrained_windows=windows if any(windows) else (),
            mlp_ratio=float(c.get("mlp_ratio", 4.0)),
            positions="learned" if c.get("abs_pos") else "none",
            patch_norm=bool(c.get("patch_norm", True)),
            qkv_bias=bool(c.get("qkv_bias", True)),
            layer_norm_eps=float(c.get("layer_norm_eps", 1e-5)),
        )
    )
    if images.shape[-3:-1] != config.image_size:
        raise VerifyError(
            f"{case.folder}: images of {images.shape[-3:-1]} pixels, but config.image_size {config.image_size}"
        )
    return config


def swin_shows(arrays: Arrays, prefix: str = "") -> dict[str, Any]:
    """What the shapes of either version say of `model`."""
    found, stages = authors.patches_show(arrays, prefix), range(authors.count(arrays, f"{prefix}layers."))
    found["model.depths"] = tuple(authors.count(arrays, f"{prefix}layers.{stage}.blocks.") for stage in stages)
    attention = [f"{prefix}layers.{stage}.blocks.0.attn" for stage in stages]
    tables = [authors.shape(arrays, f"{name}.relative_position_bias_table", 2)[1:] for name in attention]
    scales = [authors.shape(arrays, f"{name}.logit_scale", 3)[:1] for name in attention]
    for heads in (tables, scales):
        if all(heads):
            found["model.heads"] = tuple(count for (count,) in heads)
    return found
