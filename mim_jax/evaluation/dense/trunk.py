"""From images to the feature maps that a dense head sees: a frozen encoder's, a trained one's, or raw patches."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.evaluation.encoders import tokens_by_block
from mim_jax.methods.base import Features, Method, ParamGroups, Variables
from mim_jax.methods.transformers import vit_features, vit_groups
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patch_grid, patchify
from mim_jax.training.fit import fit
from mim_jax.training.groups import flat, path_name

Map = Float[Array, "B _ _ _"]


@dataclasses.dataclass(frozen=True)
class Trunk:
    """What stands below a dense head; hashable, so that it can be compiled in.

    method: None for raw pixels. blocks: places in `Features.layers`; (): the tokens after the final norm. normed: the
    blocks' tokens pass the final norm. cls: the class token is joined to every place. patch: side of a patch of raw
    pixels. copies: how often raw pixels are repeated. vit: the encoder's config where it runs with parameters of its
    own, fitted to the crop, because it is trained, or because its relative positions belong to another grid.
    """

    method: Method | None
    blocks: tuple[int, ...] = ()
    normed: bool = True
    cls: bool = False
    patch: int = 16
    copies: int = 1
    vit: VitConfig | None = None
    trained: bool = False

    def maps(
        self, variables: Variables, encoder: Any, images: Float[Array, "B H W C"], key: Any = None
    ) -> tuple[Map, ...]:
        """Feature maps of normalised images.

        variables: of the method, or as `fitted` made them. encoder: the trained parameters, where they are. key: of
        drop path, in training.
        """
        if self.method is None:
            grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
            patches = patchify(images, (self.patch, self.patch))
            return (patches.reshape(len(images), *grid, -1),) * self.copies
        layers: Any = ("normed" if self.normed else True) if self.blocks else False
        if self.vit is None:
            found = self.method.encode(variables.params, images, extra=variables.extra, layers=layers)
        else:
            vit = self.vit
            noise = None if key is None else drop_path_noise(key, len(images), vit.depth, vit.drop_path_rate)
            found = vit_features(Vit(vit), encoder if self.trained else variables.params, images, layers, noise)
        return self._as_maps(found)

    def _as_maps(self, found: Features) -> tuple[Map, ...]:
        prefix = 0 if found.cls is None else 1
        if not self.blocks:
            return (self._one(found.patches, found.cls if self.cls else None, found.grid),)
        whole = found.patches.shape[1]
        maps = []
        for block in self.blocks:
            tokens = found.layers[block]
            patches = tokens[:, prefix:]
            factor = math.isqrt(patches.shape[1] // whole)  # earlier stages of a hierarchy have finer grids
            grid = (found.grid[0] * factor, found.grid[1] * factor)
            maps.append(self._one(patches, tokens[:, 0] if self.cls and prefix else None, grid))
        return tuple(maps)

    def _one(self, patches: Float[Array, "B N D"], cls: Any, grid: tuple[int, int]) -> Map:
        out = patches.reshape(len(patches), *grid, -1)
        if cls is None:
            return out
        return jnp.concatenate([out, jnp.broadcast_to(cls[:, None, None], out.shape)], axis=-1)

    def fitted(self, variables: Variables) -> Variables:
        """The variables that `maps` wants: the method's own, or the encoder's alone, fitted to the crop.

        Raises:
            ConfigError: an encoder that cannot be fitted.
        """
        if self.vit is None:
            return variables
        method: Any = self.method
        encoder = method.encoder_params(variables.params, variables.extra)
        images = jax.ShapeDtypeStruct((1, *self.vit.image_size, self.vit.channels), jnp.float32)
        shapes = jax.eval_shape(Vit(self.vit).init, jax.random.key(0), images)["params"]
        found = fit(flat(encoder), method.model, flat(shapes), self.vit, "the encoder").arrays

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> Array:
            name = path_name(path)
            fresh = jnp.ones if name.endswith("scale") else jnp.zeros  # a final norm that pretraining did not have
            return jnp.asarray(found[name]) if name in found else fresh(shape.shape, shape.dtype)

        return Variables(jax.tree_util.tree_map_with_path(leaf, shapes))

    def groups(self) -> ParamGroups:
        """Layer decay of the trained parameters, `encoder/...` and `head/...`."""
        if not self.trained or self.vit is None:
            return ParamGroups(depth=0)
        positions = r"encoder/(cls_token|pos_embed)$", r"relative_bias"
        return dataclasses.replace(vit_groups(self.vit.depth), no_decay=positions)


def resolve_blocks(method: Method, asked: tuple[int, ...], spread: bool, key: str) -> tuple[int, ...]:
    """Places in `Features.layers` for the config's `blocks`; () stays () where one map is enough.

    spread: several maps are needed: the last of every stage (of at most four) where the encoder has stages, else the
    blocks at a third, a half, two thirds and all of the depth (BEiT: 4, 6, 8, 12 of 12).

    Raises:
        ConfigError: blocks that the encoder does not have, or not four where four are needed.
    """
    if not asked and not spread:
        return ()
    sizes = tokens_by_block(method)
    depth = len(sizes)
    if asked:
        for number in asked:
            if not 1 <= abs(number) <= depth:
                raise ConfigError(f"{key} = {asked}: this encoder has the blocks 1 to {depth}, not {number}")
        found = tuple(number - 1 if number > 0 else depth + number for number in asked)
    else:
        ends = tuple(i for i in range(depth) if i + 1 == depth or sizes[i + 1] != sizes[i])
        if len(ends) > 1:
            return ends[-4:]
        found = tuple(max(round(depth * k / 6), 1) - 1 for k in (2, 3, 4, 6))
    if spread and len(found) != 4:
        raise ConfigError(
            f"{key} = {tuple(i + 1 for i in found)}: UPerNet needs four blocks; name four of 1 to {depth}"
        )
    return found


def own_vit(method: Method, crop: tuple[int, int], trained: bool, drop_path_rate: float, key: str) -> VitConfig | None:
    """The config of `Trunk.vit`; None where the method's own encoder serves.

    In training fixed positions become learned ones and a shared table of relative positions one for each block, as in
    fine-tuning on images.

    Raises:
        ConfigError: an encoder to be trained that is no plain vision transformer; names `key`.
    """
    config = method.model
    if not isinstance(config, VitConfig):
        if trained:
            raise ConfigError(f"{key} = finetune needs a plain vision transformer, not the encoder of {method.name}")
        return None
    other = patch_grid(crop, config.patch_size, "crop") != config.grid
    if not trained:
        return dataclasses.replace(config, image_size=crop) if other and config.relative_bias != "none" else None
    tables = "none" if config.relative_bias == "none" else "per_block"
    positions = "learned_sincos" if config.positions == "sincos" else config.positions
    changes: dict[str, Any] = {"positions": positions, "relative_bias": tables, "drop_path_rate": drop_path_rate}
    return dataclasses.replace(config, image_size=crop, **changes)
