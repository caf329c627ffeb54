"""What cases of vision transformers have in common: sizes of the model, and arrays of hidden patches only."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.models.vit_config import VitConfig


def vit_config(case: Case, images: str = "images", /, **settings: Any) -> VitConfig:
    """The encoder that a case asks for; the images say how many channels there are.

    images: the input that holds them. settings: further keys of the model section, such as positions and init.

    Raises:
        VerifyError: drop path, whose draws no case holds, or images of another size than the config says.
    """
    c = case.config
    if c.get("drop_path", 0.0):
        raise VerifyError(f"{case.folder}: drop_path {c['drop_path']} needs the draws, which the case does not hold")
    size = dict(
        image_size=pair(setting(case, "image_size", "img_size"), "image_size"),
        channels=int(case.inputs[images].shape[-1]),
        patch_size=pair(c["patch_size"], "patch_size"),
        width=setting(case, "width", "embed_dim"),
        depth=c["depth"],
        heads=setting(case, "heads", "num_heads"),
        mlp_ratio=float(c.get("mlp_ratio", 4.0)),
        layer_norm_eps=float(c.get("layer_norm_eps", 1e-6)),
    )
    if not c.get("qkv_bias", True):
        size["qkv_bias"] = "none"
    config, shape = VitConfig.from_section({**size, **settings}), case.inputs[images].shape
    if shape[-3:-1] != config.image_size:
        raise VerifyError(f"{case.folder}: images of {shape[-3:-1]} pixels, but config.image_size {config.image_size}")
    return config


def setting(case: Case, *names: str, default: Any = None) -> Any:
    """The value of a setting by the first of its names that the config has; the originals do not agree on names.

    default: where it has none of them; None refuses that.
    """
    c = case.config
    name = next((name for name in names if name in c), names[0])
    return c[name] if default is None else c.get(name, default)


def beit_settings(case: Case) -> dict[str, Any]:
    """What BEiT's family adds to the model section: biases, layer scale, positions."""
    c = case.config
    per_block = setting(case, "rel_pos_per_block", "use_rel_pos_bias", default=False)
    shared = setting(case, "rel_pos_shared", "use_shared_rel_pos_bias", default=False)
    tables = "per_block" if per_block else "shared" if shared else "none"
    return dict(
        qkv_bias="qv" if c.get("qkv_bias", True) else "none",
        layer_scale=float(setting(case, "layer_scale_init", "init_values", default=False) or 0.0),
        positions="learned" if setting(case, "abs_pos", "use_abs_pos_emb", default=False) else "none",
        relative_bias=tables,
        init="beit",
    )


def patch_sizes(config: VitConfig) -> dict[str, int]:
    """Lengths of the axes in the pattern of the patch embedding."""
    return {"p": config.patch_size[0], "q": config.patch_size[1], "c": config.channels}


def masked_rows(values: Any, hidden: Any) -> np.ndarray:
    """The rows of hidden patches, image by image, raster order inside an image; on the host."""
    return np.asarray(jax.device_get(values))[np.asarray(jax.device_get(hidden))]
