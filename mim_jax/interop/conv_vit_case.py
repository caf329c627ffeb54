"""What cases of ConvMAE's encoder have in common: names of the arrays, fixed tables, sizes of the model."""

from __future__ import annotations

import math
from typing import Any

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.case import Case
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import Rule
from mim_jax.interop.rules import dense, norm, timm_block
from mim_jax.interop.vit_case import setting
from mim_jax.models.conv_vit_config import ConvVitConfig

STAGES = (0, 1)  # of the stem in the authors' classes
POINTWISE = "o i 1 1 -> i o"


def patches(axes: str) -> str:
    """A convolution over whole patches, whose sides and channels are the axes p, q and c followed by `axes`."""
    p, q, c = (f"{letter}{axes}" for letter in "pqc")
    return f"d {c} {p} {q} -> ({p} {q} {c}) d"


def stage_rules(stage: int) -> tuple[Rule, ...]:
    """The embedding of a stage of convolutions, its blocks, and the convolution that fuses its map."""
    theirs, ours = f"blocks{stage + 1}.{{i}}", f"encoder/stage_{stage}_block_{{i}}"
    embed = f"encoder/embed_{stage}"
    return (
        *dense(f"patch_embed{stage + 1}.proj", f"{embed}/patch_embed/proj", patches(f"{stage}")),
        *norm(f"patch_embed{stage + 1}.norm", f"{embed}/norm"),
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *dense(f"{theirs}.conv1", f"{ours}/conv1", POINTWISE),
        *dense(f"{theirs}.attn", f"{ours}/depthwise", "d 1 p q -> p q 1 d"),
        *dense(f"{theirs}.conv2", f"{ours}/conv2", POINTWISE),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/fc1", POINTWISE),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/fc2", POINTWISE),
        *dense(f"stage{stage + 1}_output_decode", f"encoder/fuse_{stage}/proj", patches(f"f{stage}")),
    )


ENCODER = (
    *(rule for stage in STAGES for rule in stage_rules(stage)),
    *dense("patch_embed3.proj", "encoder/embed/patch_embed/proj", patches("2")),
    *norm("patch_embed3.norm", "encoder/embed/norm"),
    *dense("patch_embed4", "encoder/transformer/patch_embed/proj"),
    *timm_block("blocks3.{i}", "encoder/transformer/blocks_{i}"),
    *norm("norm", "encoder/norm"),
)


def sizes(config: ConvVitConfig) -> dict[str, int]:
    """Lengths of the axes in the patterns above."""
    found: dict[str, int] = {}
    channels = config.channels
    for stage, side in enumerate(config.strides):
        found |= {f"p{stage}": side, f"q{stage}": side, f"c{stage}": channels}
        if stage in STAGES:
            channels = config.stem_width[stage]
            side = math.prod(config.strides[stage + 1 :])
            found |= {f"pf{stage}": side, f"qf{stage}": side, f"cf{stage}": channels}
    return found


def conv_vit_config(case: Case) -> ConvVitConfig:
    """The encoder that a case asks for; the decoder's perceptrons have the ratio of its first stage.

    Raises:
        VerifyError: other numbers of stages than three, drop path, or images of another size than the config says.
    """
    c, images = case.config, case.inputs["images"]
    if c.get("drop_path", c.get("drop_path_rate", 0.0)):
        raise VerifyError(f"{case.folder}: this network has no drop path in pretraining, but config.drop_path is set")
    widths, depths, ratios = (list(c[key]) for key in ("embed_dim", "depth", "mlp_ratio"))
    strides = c.get("patch_size", [4, 2, 2])
    for key, value in (("embed_dim", widths), ("depth", depths), ("mlp_ratio", ratios), ("patch_size", strides)):
        if not isinstance(value, list) or len(value) != len(STAGES) + 1:
            raise VerifyError(f"{case.folder}: config.{key} {value} must hold a number for each of three stages")
    heads = c["num_heads"]
    config = ConvVitConfig.from_section(
        dict(
            image_size=pair(setting(case, "img_size", "image_size"), "img_size"),
            channels=int(images.shape[-1]),
            stem_width=tuple(widths[:-1]),
            stem_depth=tuple(depths[:-1]),
            stem_mlp_ratio=tuple(ratios[:-1]),
            strides=tuple(strides),
            width=widths[-1],
            depth=depths[-1],
            heads=heads if isinstance(heads, int) else heads[-1],
            mlp_ratio=float(ratios[-1]),
        )
    )
    if images.shape[1:3] != config.image_size:
        raise VerifyError(f"{case.folder}: images of {images.shape[1:3]} pixels, but img_size {config.image_size}")
    return config


def conv_vit_shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of encoder and decoder."""
    stems = [authors.shape(arrays, f"patch_embed{stage + 1}.proj.weight", 4) for stage in STAGES]
    depths = tuple(authors.count(arrays, f"blocks{stage + 1}.") for stage in STAGES)
    found = {"model.stem_width": tuple(side for sides in stems for side in sides[:1]), "model.stem_depth": depths}
    widths = {"decoder_embed.weight": "method.decoder_width", "patch_embed4.weight": "model.width"}
    layers = {"decoder_blocks.": "method.decoder_depth", "blocks3.": "model.depth"}
    return found | authors.sizes_show(arrays, widths, layers)
