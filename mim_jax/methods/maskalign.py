"""MaskAlign: Stare at What You See: Masked Image Modeling without Reconstruction (Xue et al. CVPR 2023).

Hidden: 70 % of the patches, dropped; what a frozen teacher attends to is likelier to stay. Predicted: the teacher's
features, layer by layer, of the patches that are visible. By whom: a ViT that sees these alone, its layers mixed by a
learned matrix (dynamic alignment), and one linear layer for each of the teacher's. Error: smooth L1, last five layers.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.layers import layer_weights
from mim_jax.losses.smooth_l1 import smooth_l1
from mim_jax.masking.attention import importance_mask
from mim_jax.masking.mask import Mask, gather_tokens, mask_from_noise
from mim_jax.masking.random import visible_count
from mim_jax.methods.base import Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import start
from mim_jax.methods.teachers import Taught, direction_pictures
from mim_jax.models.alignment import FUSIONS, HEADS, DynamicAlignment, alignment_flops
from mim_jax.models.attention_map import Inside
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.targets.features import NORMALISATIONS, feature_target

ERRORS = {
    "smooth_l1": lambda a, b: 2 * smooth_l1(a, b),  # twice, as in the authors' code
    "l2": lambda a, b: jnp.square(a - b).mean(-1),
    "l1": lambda a, b: jnp.abs(a - b).mean(-1),
}


@dataclasses.dataclass(frozen=True)
class MaskAlign(Taught):
    """Alignment of visible features; the defaults are the released code with a CLIP of equal depth."""

    name: ClassVar[str] = "maskalign"
    scores_visible: ClassVar[bool] = True
    without_gradient: ClassVar[tuple[str, ...]] = (r"encoder/norm/",)  # the outputs of the blocks are aligned

    mask_ratio: float = 0.7
    masking: str = "attention"  # attention | random
    target: str = "whiten"  # none | l2 | whiten | batch (statistics of the whole batch)
    fusion: str = "linear"  # linear (teacher as deep as the student) | sum (any depths) | simple (no mixing)
    head: str = "linear"  # linear | norm_linear | mlp | linear_norm_linear
    layer_weights: str = "top5"  # mean | out | linear_decay | topK | midK
    error: str = "smooth_l1"  # smooth_l1 | l2 | l1

    def check(self) -> None:
        visible_count(self.model.tokens, self.mask_ratio)
        check_choices(self, "method", masking=("attention", "random"), target=NORMALISATIONS, error=ERRORS)
        check_choices(self, "method", fusion=FUSIONS, head=HEADS)
        depth, taught = self.model.depth, self.teacher.model.depth
        layer_weights(self.layer_weights, taught)
        if not self.model.cls_token:
            raise ConfigError("model.cls_token must be true: MaskAlign aligns it with the teacher's")
        if self.fusion != "sum" and depth != taught:
            raise ConfigError(
                f"method.fusion '{self.fusion}' needs a teacher as deep as the student, and they have {taught} and "
                f"{depth} blocks; 'sum' takes any"
            )

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> MaskAlign:
        return cls.tiny_of(image_size, channels, model, layer_weights="mean")

    @property
    def seen(self) -> int:
        """Patches that the encoder processes."""
        return visible_count(self.model.tokens, self.mask_ratio)

    def modules(self) -> tuple[Vit, DynamicAlignment]:
        sizes = (self.teacher.model.depth, self.teacher.model.width)
        return Vit(self.model), DynamicAlignment(*sizes, self.fusion, self.head, self.model.dtype)

    def init(self, key, batch) -> Variables:
        (encoder, alignment), keys = self.modules(), jax.random.split(key)
        states = (jnp.zeros((1, 1 + self.seen, self.model.width)),) * self.model.depth
        params = start(keys[0], encoder=(encoder, batch["image"][:1]), alignment=(alignment, states))
        return Variables(params=params, frozen=self.teacher.start(keys[1]))

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, path_key) = len(batch["image"]), jax.random.split(key)
        tiny = jnp.finfo(jnp.float32).tiny
        noise = jax.random.uniform(mask_key, (size, self.model.tokens), minval=tiny)
        return {
            "noise": noise,
            "drop_path": drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate),
        }

    def mask(self, noise, seen: Inside) -> Mask:
        """What the noise hides; where the teacher looks, less is hidden."""
        if self.masking == "random":
            return mask_from_noise(noise, self.seen, self.model.grid)
        return importance_mask(noise, seen.attention[-1].mean(1)[:, 0, 1:], self.seen, self.model.grid)

    def targets(self, seen: Inside, mask: Mask):
        """(L, B, 1 + V, C): every block's output, normalised, for the class token and the visible patches."""
        whole = [feature_target(self.target, state) for state in seen.states[2::2]]
        return jnp.stack([jnp.concatenate([x[:, :1], gather_tokens(x[:, 1:], mask.visible)], 1) for x in whole])

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, alignment = self.modules()
        seen = self.teacher.inside(frozen, batch["teacher"])
        mask = self.mask(draws["noise"], seen)
        target = self.targets(seen, mask)
        given = dict(visible=mask.visible, noise=draws["drop_path"], layers=True)
        _, states = encoder.apply({"params": params["encoder"]}, batch["image"], **given)
        student = alignment.apply({"params": params["alignment"]}, states)
        error = ERRORS[self.error](student, target)
        weights, per_layer = layer_weights(self.layer_weights, len(target)), error.mean((1, 2))
        loss = (weights * per_layer).sum()
        trace = dict(mask=mask, latent=states[-1], pred=student[-1], target=target[-1], loss_per_layer=per_layer)
        trace |= dict(student=student, teacher=target, states=states, error=error[-1, :, 1:])
        return loss, Output({"alignment": loss}, weight=float(len(batch["image"])), trace=trace)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        mask = t["mask"]
        place = jax.nn.one_hot(mask.visible, self.model.tokens)
        predicted, target = (jnp.einsum("bvn,bvd->bnd", place, x[:, 1:]) for x in (t["pred"], t["target"]))
        error = jnp.einsum("bvn,bv->bn", place, t["error"])
        size = self.model.patch_size
        return direction_pictures(batch["image"], size, mask.hidden, predicted, target, error, ~mask.hidden)

    def param_groups(self) -> ParamGroups:
        no_decay = () if self.fusion == "simple" else (r"alignment/mix$",)
        return dataclasses.replace(super().param_groups(), no_decay=no_decay)

    def flops(self) -> float:
        encoder, alignment = self.modules()
        student = vit_flops(self.model, self.seen)
        student += alignment_flops(alignment, 1 + self.seen, self.model.width, self.model.depth)
        return 3 * student + self.teacher.flops()
