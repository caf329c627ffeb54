"""The parameters of one encoder fitted to another: the same network on another grid, with other tables of positions,
or on images of other patches or channels.

Positions are resized bicubically, as `model.position_offset` and `model.position_antialias` say; tables of relative
positions by splines over distances that grow geometrically (BEiT's code; SimMIM's too); a table that all blocks share
becomes one table for each block. The embedding of patches takes another patch size by the pseudo-inverse of resizing
(FlexiViT), and the first layer another number of channels by timm's rule.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import ConfigError
from mim_jax.models.conv_config import ConvConfig
from mim_jax.models.conv_vit_config import ConvVitConfig
from mim_jax.models.swin_config import SwinConfig
from mim_jax.models.vit import fixed_positions
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.patches import change_channels, resize_patch_kernel
from mim_jax.nn.positions import resize_positions
from mim_jax.nn.relative import resize_relative

Arrays = Mapping[str, Any]  # by path below the encoder

# What both encoders must have in common although no shape shows it.
SAME: dict[type, tuple[str, ...]] = {
    VitConfig: ("heads", "layer_norm_eps", "mlp", "activation", "rope", "rope_base"),
    SwinConfig: ("arch", "heads", "layer_norm_eps"),
    ConvConfig: ("arch", "block", "stem_stride"),
    ConvVitConfig: ("heads", "layer_norm_eps"),
}
# May stay behind, or start fresh: the token for hidden patches, and the final norm, which mean pooling replaces.
OPTIONAL = r"^(mask_token$|norm/)"
SPARE = rf"{OPTIONAL}|^projection$|^fuse_\d+/"  # may stay behind, but means nothing untrained
PATCHES = "patch_embed/proj/kernel"  # (P, D), P over (row, column, channel)
# Of the layer that sees the pixels; (..., C, D), or as PATCHES.
FIRST = (PATCHES, "conv1/kernel", "downsample_0/conv/kernel", f"embed_0/{PATCHES}")
TABLE = r"(?:^|/)relative_bias/table$"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """arrays: by path, in the target's shapes. changed: sentences about what was resized or copied. left: names that
    the target does not have; new: names that the source does not have, which keep their fresh values."""

    arrays: dict[str, np.ndarray]
    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def fit(source: Arrays, theirs: Any, shapes: Arrays, ours: Any, name: str) -> Fitted:
    """Fits `source`, the parameters of an encoder with config `theirs`, to `shapes`, those of one with config `ours`.

    name: of the source, for messages.

    Raises:
        ConfigError: what does not fit, by key or path, with both values.
    """
    _check_kind(theirs, ours, name)
    found, changed = dict(source), []
    for change in (_fit_pixels, _move_positions, _copy_tables, _resize_tables):
        changed += change(found, theirs, shapes, ours)
    arrays, missing = {}, []
    for path, shape in shapes.items():
        if path not in found:
            missing.append(path)
            continue
        value = np.asarray(found.pop(path))
        if value.shape != tuple(shape.shape):
            raise ConfigError(
                f"{name}: encoder/{path} has shape {value.shape}, but the model of this run needs "
                f"{tuple(shape.shape)}; give the model section the sizes of that run, or start from another"
            )
        arrays[path] = value
    _refuse(missing, f"{name} has no encoder/", ", which the model of this run needs", lambda p: _may_be_new(p, source))
    spare = lambda path: bool(re.search(SPARE, path))  # noqa: E731
    _refuse(list(found), f"{name} has encoder/", ", for which the model of this run has no place", spare)
    return Fitted(arrays, tuple(changed), tuple(found), tuple(missing))


def _check_kind(theirs: Any, ours: Any, name: str) -> None:
    if type(theirs) is not type(ours):
        kinds = [type(config).__name__.removesuffix("Config") for config in (theirs, ours)]
        raise ConfigError(f"{name} has an encoder of kind {kinds[0]}, the model of this run is of kind {kinds[1]}")
    for key in SAME.get(type(ours), ()):
        if getattr(theirs, key) != getattr(ours, key):
            raise ConfigError(
                f"model.{key} is {getattr(ours, key)!r}, but {name} has an encoder with {getattr(theirs, key)!r}; "
                "make them equal"
            )


def _fit_pixels(found: dict[str, Any], theirs: Any, shapes: Arrays, ours: Any) -> list[str]:
    """The first layer for another number of channels, and then for patches of another size."""
    path, said = next((path for path in FIRST if path in found), ""), []
    if not path:
        return []
    if theirs.channels != ours.channels:
        kernel = np.asarray(found[path])
        flat = path.endswith(PATCHES)
        by_channel = kernel.reshape(-1, theirs.channels, kernel.shape[-1]) if flat else kernel
        changed = change_channels(by_channel, ours.channels)
        found[path] = changed.reshape(-1, kernel.shape[-1]) if flat else changed
        said = [f"{path.partition('/')[0]} made of {theirs.channels} channels for {ours.channels}"]
    if path == PATCHES and theirs.patch_size != ours.patch_size:
        found[path] = resize_patch_kernel(np.asarray(found[path]), theirs.patch_size, ours.patch_size)
        said.append(f"patch_embed resized from {_grid(theirs.patch_size)} to {_grid(ours.patch_size)} pixels")
    return said


def _move_positions(found: dict[str, Any], theirs: Any, shapes: Arrays, ours: Any) -> list[str]:
    """Fixed positions become the start of learned ones; a table for another grid is resized."""
    said: list[str] = []
    path = "pos_embed"
    if isinstance(ours, ConvConfig):
        return []
    if isinstance(ours, ConvVitConfig):  # a stem without positions, and a transformer
        path, theirs, ours = "transformer/pos_embed", theirs.vit, ours.vit
    if path not in shapes:
        if path not in found and theirs.positions != ours.positions:
            raise ConfigError(
                f"model.positions is '{ours.positions}', but the source's encoder was trained with "
                f"'{theirs.positions}'; make them equal"
            )
        return []
    if path not in found:
        if theirs.positions == "none":
            return []  # and `fit` says that the table is missing
        found[path] = fixed_positions(theirs, theirs.grid)[None]
        said = ["fixed positions made the start of learned ones"]
    before, prefix = found[path], getattr(theirs, "prefix", 0)
    if theirs.grid == ours.grid or prefix != getattr(ours, "prefix", 0):
        return said
    rule = (getattr(ours, "position_offset", 0.0), getattr(ours, "position_antialias", False))
    found[path] = np.asarray(resize_positions(jnp.asarray(before), theirs.grid, ours.grid, prefix, *rule))
    return [*said, f"positions resized from {_grid(theirs.grid)} to {_grid(ours.grid)}"]


def _copy_tables(found: dict[str, Any], theirs: Any, shapes: Arrays, ours: Any) -> list[str]:
    """The table of relative positions that all blocks share, as one for each block."""
    wanted = [path for path in shapes if re.search(TABLE, path) and path.startswith("blocks_")]
    if "relative_bias/table" not in found or not wanted:
        return []
    table = found.pop("relative_bias/table")
    found.update({path: table for path in wanted})
    return ["the shared table of relative positions copied to every block"]


def _resize_tables(found: dict[str, Any], theirs: Any, shapes: Arrays, ours: Any) -> list[str]:
    """Tables of relative positions for another grid (ViT) or other windows (Swin)."""
    said: list[str] = []
    for path in [path for path in found if re.search(TABLE, path)]:
        old, new = (_table_grid(config, path) for config in (theirs, ours))
        if old != new and path in shapes:
            cls = isinstance(ours, VitConfig) and ours.cls_token
            found[path] = resize_relative(np.asarray(found[path]), old, new, cls)
            said.append(f"relative positions resized from {_grid(old)} to {_grid(new)}")
    return list(dict.fromkeys(said))


def _table_grid(config: Any, path: str) -> tuple[int, int]:
    stage = re.match(r"stages_(\d+)/", path)
    return (config.stage_window(int(stage[1])),) * 2 if stage else config.grid


def _may_be_new(path: str, source: Arrays) -> bool:
    """Tables of relative positions start at zero, where they change nothing: CAE adds them in fine-tuning."""
    tables = any(re.search(TABLE, name) for name in source)
    return bool(re.search(OPTIONAL, path)) or (
        not tables and bool(re.search(TABLE, path)) and not path.startswith("stages_")
    )


def _refuse(paths: list[str], before: str, after: str, allowed: Callable[[str], bool]) -> None:
    bad = [path for path in paths if not allowed(path)]
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ConfigError(f"{before}{bad[0]}{others}{after}; make the model sections agree")


def _grid(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"
