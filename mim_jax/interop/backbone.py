"""A run's encoder for a detection toolbox: weights under the names that toolboxes read, and what to build around them.

vitdet: a plain vision transformer below ViTDet's simple feature pyramid (Li et al. 2022). mimdet: MAE's encoder and
decoder for MIMDet (Fang et al. 2023). The new layers of a detector (pyramid, stem, heads) start at random there, so
none are written.
"""

from __future__ import annotations

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import ConfigError, nearest
from mim_jax.interop.name_map import NameMap, to_theirs
from mim_jax.interop.original import mae
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same
from mim_jax.interop.staging import refuse_existing, staged
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method, Tree
from mim_jax.methods.mae import MAE
from mim_jax.models.feature_pyramid import SimpleFeaturePyramid
from mim_jax.models.mimdet import mimdet
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import resize_positions, sincos_2d
from mim_jax.training.checkpoints import Which
from mim_jax.training.runs import Run, load_run

DESIGNS = ("vitdet", "mimdet")
CANVAS = (50, 50)  # the grid of MIMDet's position tables: images of 800 pixels
ENCODER_NAMES = NameMap(
    rules=(
        *same("cls_token", "cls_token"),
        *same("pos_embed", "pos_embed"),
        *dense("patch_embed.proj", "patch_embed/proj", PATCHES),
        *beit_block("blocks.{i}", "blocks_{i}"),
        *same("rel_pos_bias.relative_position_bias_table", "relative_bias/table"),
        *norm("norm", "norm"),
    )
)
DECODER_NAMES = NameMap(
    rules=tuple(
        dataclasses.replace(rule, ours=tuple(path.removeprefix("decoder/") for path in rule.ours))
        for rule in mae.DECODER
    )
)


def export_backbone(
    run_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    image_size: int = 1024,
    design: str = "vitdet",
    step: Which = None,
) -> Path:
    """Writes `backbone.safetensors` and `backbone.json` into a new folder `out`, all or nothing; returns it.

    The arrays are float32 under MAE's names (timm's for the blocks), in PyTorch's layout; positions are resized to
    images of `image_size` (mimdet: to its canvas of 800). The JSON holds every name with its shape, how the encoder was
    built and fed, and the shapes of the maps that the design makes of such an image.

    Raises:
        ConfigError: a design that does not exist or that the run does not serve, a size that does not fit, or an `out`
            that is there already.
        CheckpointError: no such run.
    """
    out = Path(out)
    if design not in DESIGNS:
        raise ConfigError(f"'{design}' is not a design{nearest(design, DESIGNS)}")
    refuse_existing(out)
    run = load_run(run_dir, step)
    config = _vit_config(run.method)
    arrays = vitdet_arrays(run, image_size) if design == "vitdet" else mimdet_arrays(run)
    note = {
        "design": design,
        "method": run.method.name,
        "run": str(run.workdir.resolve()),
        "step": run.step,
        "checkpoint_hash": run.checkpoint_hash,
        "encoder": {key: value for key, value in dataclasses.asdict(config).items() if key not in ("scan", "remat")},
        "pixels": {
            "range": [0, 1],
            "order": "RGB",
            "mean": list(run.config.data.mean),
            "std": list(run.config.data.std),
        },
        "image_size": image_size,
        "maps": {name: list(shape) for name, shape in map_shapes(run.method, design, image_size).items()},
        "layout": "maps are (batch, height, width, channels); arrays are PyTorch's: linear (out, in), convolution OIHW",
        "arrays": {name: list(array.shape) for name, array in sorted(arrays.items())},
    }
    _write(out, arrays, note)
    return out


def vitdet_arrays(run: Run, image_size: int) -> dict[str, np.ndarray]:
    """The encoder's arrays, positions for a square image of that size.

    Raises:
        ConfigError: patches that do not fill the image.
    """
    config = _vit_config(run.method)
    rows, columns = config.patch_size
    if image_size < max(rows, columns) or image_size % rows or image_size % columns:
        raise ConfigError(f"--image-size {image_size} is no multiple of the patch {rows} x {columns}; give one")
    encoder = _encoder(run)
    if config.positions != "none":
        encoder["pos_embed"] = _positions(config, encoder, (image_size // rows, image_size // columns))
    return _float32(to_theirs(ENCODER_NAMES, encoder, patch_sizes(config)))


def mimdet_arrays(run: Run) -> dict[str, np.ndarray]:
    """The arrays of MAE's encoder and decoder, both position tables on MIMDet's canvas.

    Raises:
        ConfigError: a run of another method, or without a class token, whose position tables MIMDet expects.
    """
    method = run.method
    if not isinstance(method, MAE) or not method.model.cls_token:
        raise ConfigError(f"mimdet needs a run of mae with its decoder and a cls token, not of {method.name}")
    encoder = _encoder(run)
    encoder["pos_embed"] = _positions(method.model, encoder, CANVAS)
    arrays = to_theirs(ENCODER_NAMES, encoder, patch_sizes(method.model))
    arrays |= to_theirs(DECODER_NAMES, run.variables.params["decoder"], {})
    table = jnp.asarray(sincos_2d(method.model.grid, method.decoder_width))[None]
    arrays["decoder_pos_embed"] = np.asarray(resize_positions(table, method.model.grid, CANVAS))
    return _float32(arrays)


def mimdet_start(method: MAE, params: Tree, fresh: Tree) -> Tree:
    """Parameters of `models.mimdet` with everything that MAE has: blocks, norms, the decoder's input, positions.

    fresh: parameters of the backbone; what MAE does not have (the stem and its way into the decoder) stays. Of the
    decoder's blocks the first ones are taken.
    """
    found = jax.tree.map(lambda leaf: leaf, fresh)
    for part in ("encoder", "decoder"):
        found[part] = {name: params[part][name] for name in fresh[part]}
    found["decoder_embed"] = params["decoder"]["embed"]
    for name, width in (("pos_embed", method.model.width), ("decoder_pos_embed", method.decoder_width)):
        own = params["encoder"].get("pos_embed") if name == "pos_embed" else None
        table = jnp.asarray(sincos_2d(method.model.grid, width))[None] if own is None else own
        side = round((fresh[name].shape[1] - 1) ** 0.5)
        found[name] = resize_positions(table, method.model.grid, (side, side))
    return found


def map_shapes(method: Method, design: str, image_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the pyramid that a design makes of one square image, by level.

    Raises:
        ConfigError: an image size that the design does not take.
    """
    config = _vit_config(method)
    if isinstance(method, MAE) and design == "mimdet":
        own = {"decoder_heads": method.decoder_heads, "decoder_width": method.decoder_width}
        backbone = mimdet(config.width, config.depth, config.heads, **own)
        images = jax.ShapeDtypeStruct((1, image_size, image_size, config.channels), jnp.float32)
        found = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], images)
    else:
        grid = (image_size // config.patch_size[0], image_size // config.patch_size[1])
        last = jax.ShapeDtypeStruct((1, *grid, config.width), jnp.float32)
        found = jax.eval_shape(partial(SimpleFeaturePyramid().init_with_output, jax.random.key(0)), last)[0]
    return {name: tuple(level.shape) for name, level in found.items()}


def _vit_config(method: Method) -> VitConfig:
    config = method.model
    if not isinstance(config, VitConfig):
        raise ConfigError(
            f"a backbone is exported of plain vision transformers, not of the encoder of {method.name}; give a "
            "run that has one, such as of mae"
        )
    if config.special:
        raise ConfigError(
            f"toolboxes build no backbone with model.{config.special[0]}, which this run has; give another"
        )
    return config


def _encoder(run: Run) -> dict[str, Any]:
    found = run.method.encoder_params(run.variables.params, run.variables.extra)
    return {name: leaf for name, leaf in found.items() if name != "mask_token"}


def _positions(config: VitConfig, encoder: Tree, grid: tuple[int, int]) -> Any:
    """The position table on another grid, bicubic, as the toolboxes resize it; fixed tables are resized too."""
    table = encoder.get("pos_embed")
    if table is None:
        if config.positions not in ("sincos", "sincos_row"):
            raise ConfigError(
                f"positions '{config.positions}' cannot be exported; give a run with model.positions 'sincos' or "
                "'learned'"
            )
        table = jnp.asarray(sincos_2d(config.grid, config.width, config.prefix, config.positions != "sincos"))[None]
    rule = (config.position_offset, config.position_antialias)
    return resize_positions(table, config.grid, grid, config.prefix, *rule)


def _float32(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _write(out: Path, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> None:
    """Both files, whole or not at all."""
    from safetensors.numpy import save_file

    with staged(out) as folder:
        save_file(arrays, folder / "backbone.safetensors", metadata={"format": "pt"})
        (folder / "backbone.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        (folder / "backbone.safetensors").chmod(0o644)  # it comes readable for its owner alone
