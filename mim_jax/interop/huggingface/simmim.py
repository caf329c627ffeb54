"""transformers' classes ForMaskedImageModeling: SimMIM (Xie et al. CVPR 2022) with a plain ViT, Swin or Swinv2.

All predict raw pixels by one 1 x 1 convolution on the last tokens; what they hide, a user says at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.interop.format import Format, Probe
from mim_jax.interop.huggingface import common, swin, vit
from mim_jax.interop.name_map import Rule
from mim_jax.interop.rules import same
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.torch_side import module
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Progress, Variables
from mim_jax.methods.simmim import SimMIM
from mim_jax.models.swin_config import SwinConfig

HEAD = (Rule(("decoder.0.weight",), ("head/kernel",), "o i 1 1 -> i o"), *same("decoder.0.bias", "head/bias"))


def vit_layout(method: SimMIM, names: Collection[str]) -> Layout:
    """`Format.layout` of ViTForMaskedImageModeling."""
    rest = (*same("vit.embeddings.mask_token", "encoder/mask_token"), *HEAD)
    return vit.whole(method, names, "vit.", rest, False, {})


def swin_layout(method: Any, names: Collection[str]) -> Layout:
    """`Format.layout` of the two versions of Swin."""
    prefix = f"{method.model.arch}."
    rest = (*same(f"{prefix}embeddings.mask_token", "encoder/mask_token"), *HEAD)
    return swin.whole(method, names, prefix, rest)


def settings(of_encoder: Callable[[Source], dict[str, Any]]) -> Callable[[Source], dict[str, Any]]:
    """`Format.settings`; mask_ratio and mask_unit are ours, as `config` writes them."""

    def read(source: Source) -> dict[str, Any]:
        kept = {key: source.config[key] for key in ("mask_ratio", "mask_unit") if key in source.config}
        return {**of_encoder(source), "method": {"target": "pixel", **kept}}

    return read


def refusal(of_encoder: Callable[[Any], str]) -> Callable[[Any], str]:
    """`Format.refusal`."""
    normalised = "its loss is that of raw pixels (method.target pixel)"
    return lambda method: of_encoder(method) or (normalised if method.target != "pixel" else "")


def config(of_encoder: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """`Format.config`."""

    def write(method: SimMIM) -> dict[str, Any]:
        c = method.model
        stride = c.stride[0] if isinstance(c, SwinConfig) else c.patch_size[0]
        own = {"encoder_stride": stride, "mask_ratio": method.mask_ratio, "mask_unit": method.mask_unit}
        return of_encoder(method) | own

    return write


def hidden_patches(count: int, tokens: int) -> np.ndarray:
    """Which patches are hidden, the same on both sides."""
    return np.random.default_rng(0).random((count, tokens)) < 0.6


def theirs(name: str) -> Callable[[Source], Probe]:
    """`Format.theirs`: blocks, reconstructed pixels and the loss."""

    def load(source: Source) -> Probe:
        torch, model = module("torch"), common.load(source, name)
        parts = model.base_model.layers if name.startswith("ViT") else swin.blocks(model)

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            tokens = model.base_model.embeddings.patch_embeddings.num_patches
            hidden = torch.from_numpy(hidden_patches(len(images), tokens))
            with common.watched(parts) as found:
                out = common.call(model, images, bool_masked_pos=hidden)
            return {**found, "reconstruction": out.reconstruction.permute(0, 2, 3, 1).numpy(), "loss": out.loss.numpy()}

        return run

    return load


def ours(method: SimMIM, variables: Variables, images: Any) -> dict[str, Any]:
    """Ours for the same hidden patches."""
    mask = Mask(jnp.asarray(hidden_patches(len(images), method.model.tokens)), grid=method.model.grid)
    draws, progress, (encoder, _) = {"mask": mask, "drop_path": None}, Progress.at(0, 1, 1), method.modules()

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        loss, output = method.forward(params, {}, {}, {"image": x}, draws, progress)
        _, layers = encoder.apply({"params": params["encoder"]}, x, hidden=mask.hidden, layers=True)
        return loss, output.trace["reconstruction"], layers

    loss, pixels, layers = run(variables.params, jnp.asarray(images))
    blocks = {f"block {i + 1}": layer for i, layer in enumerate(layers)}
    return {**blocks, "reconstruction": pixels, "loss": loss}


def masked(stem: str, layout: Any, of_settings: Any, of_refusal: Any, of_config: Any) -> Format:
    """One class; `of_...`: those of its encoder."""
    name = f"{stem}ForMaskedImageModeling"
    return Format(
        name,
        "all",
        accepts=common.is_class(name),
        settings=settings(of_settings),
        refusal=refusal(of_refusal),
        layout=layout,
        config=config(of_config(name)),
        theirs=theirs(name),
        ours=ours,
        methods=("simmim",),
    )


FORMATS = (
    masked("ViT", vit_layout, vit.settings(), vit.refusal(), lambda name: vit.config("vit", name)),
    *(
        masked(stem, swin_layout, swin.encoder_settings, swin.refusal(arch), swin.config)
        for arch, stem in swin.STEMS.items()
    ),
)
