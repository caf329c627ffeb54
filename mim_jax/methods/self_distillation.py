"""What iBOT's family shares: a student that sees crops with hidden patches learns what its moving average, which sees
them whole, says of every patch and of every other crop (Zhou et al. ICLR 2022, section 3).

A system of this family says what is hidden: `draw` gives `hidden`, Bool (B, 2, N), for the two whole crops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.losses.distillation import Distillation
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Tree, Variables, ViewShape
from mim_jax.methods.building import check_numbers, section
from mim_jax.methods.crops import check_crops, crop_flops, crop_noise, crop_views, feature_pictures, merged, parted
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.attention_map import cls_attention
from mim_jax.models.projection_head import HeadConfig, ProjectionHead
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.ema import cosine_ramp, ema_start, ema_update, shared_part

FAMILY: dict[str, Any] = dict(positions="learned", position_offset=0.1, init="ibot")


def centers(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What the teacher's logits are centred by, out of the extra state."""
    return {name: extra[name] for name in ("center", "patch_center")}


@dataclasses.dataclass(frozen=True)
class SelfDistillation(Method):
    """Student and moving-average teacher. Crops: `image`, `image2`, and `local_crops` small ones, which are whole."""

    encoder_copies: ClassVar[tuple[str, ...]] = ("teacher/encoder",)  # which the authors evaluate
    model: VitConfig = VitConfig(**FAMILY)
    mask_start_epoch: int = 0  # nothing is hidden before
    local_crops: int = 10
    local_size: tuple[int, int] = (96, 96)
    head: HeadConfig = HeadConfig()
    distillation: Distillation = Distillation()
    ema_momentum: float = 0.996  # of the teacher at the start; 1 at the end

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Any:
        vit = vit_config(model, FAMILY)
        values = section(cls, method, "method")
        values["head"] = HeadConfig.from_section(values.get("head", {}))
        values["distillation"] = Distillation.from_section(values.get("distillation", {}))
        made = cls(model=vit, **values)
        check_crops(vit, made.local_crops, made.local_size)
        made.check()
        check_numbers(made, shares=("ema_momentum",))
        return made

    def check(self) -> None:
        """Refuses what cannot be hidden.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """

    @classmethod
    def tiny_of(cls, image_size: tuple[int, int], channels: int, model: Mapping[str, Any], **method: Any) -> Any:
        """A very small instance; `method`: what it sets besides."""
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | dict(model)
        head = dict(outputs=24, patch_outputs=24, hidden=32, bottleneck=8)
        return cls.from_config(vit, dict(local_crops=2, local_size=(8, 8), head=head) | method)

    def views(self) -> dict[str, ViewShape]:
        return crop_views(self.model, self.local_crops, self.local_size)

    def modules(self, teacher: bool = False) -> tuple[Vit, ProjectionHead]:
        vit = dataclasses.replace(self.model, drop_path_rate=0.0) if teacher else self.model
        return Vit(vit, mask_token=not teacher), self.head.module(teacher)

    def networks(self, params, teacher: bool = False):
        """Encoder (images to tokens) and head (tokens to logits) with their parameters."""
        encoder, head = self.modules(teacher)
        encode = lambda images, **shown: encoder.apply({"params": params["encoder"]}, images, **shown)[0]  # noqa: E731
        return encode, lambda tokens: head.apply({"params": params["head"]}, tokens)

    def init(self, key, batch) -> Variables:
        keys, examples = jax.random.split(key), (batch["image"][:1], jnp.zeros((1, 2, self.model.width)))

        def make(teacher: bool):
            parts = zip(("encoder", "head"), self.modules(teacher), keys, examples, strict=True)
            return {name: module.init(k, example)["params"] for name, module, k, example in parts}

        params = make(teacher=False)
        teacher = ema_start(shared_part(params, jax.eval_shape(lambda: make(teacher=True))))
        start = dict(center=jnp.zeros(self.head.outputs), patch_center=jnp.zeros(self.head.patch_outputs))
        return Variables(params=params, extra={"teacher": teacher, **start})

    def drop_paths(self, key, local_key, size: int) -> dict[str, Tree]:
        """Noise of drop path for the whole and for the small crops."""
        return {
            "drop_path": crop_noise(key, size, 2, self.model),
            "local_drop_path": crop_noise(local_key, size, self.local_crops, self.model),
        }

    def begun(self, progress: Progress):
        """1.0 from `mask_start_epoch` on, 0.0 before."""
        return (progress.epoch >= self.mask_start_epoch).astype(jnp.float32)

    @staticmethod
    def whole_crops(batch):
        """The crops that the teacher sees, (2 B, H, W, C); those of an image stay together."""
        return merged(jnp.stack([batch["image"], batch["image2"]], axis=1))

    def teacher_tokens(self, extra, crops, draws):
        """What the teacher's encoder says of the whole crops; a system may have drawn it with its masks."""
        del draws
        return self.networks(extra["teacher"], teacher=True)[0](crops)

    def forward(self, params, extra, frozen, batch, draws, progress):
        size, hidden, crops = len(batch["image"]), draws["hidden"], self.whole_crops(batch)
        (encode, head), (_, teacher_head) = self.networks(params), self.networks(extra["teacher"], True)
        tokens = encode(crops, hidden=merged(hidden), noise=merged(draws["drop_path"]))
        whole = self.teacher_tokens(extra, crops, draws)
        (cls, patches), teacher = (tuple(parted(x, size) for x in out) for out in (head(tokens), teacher_head(whole)))
        trace = dict(student_tokens=parted(tokens, size), teacher_tokens=parted(whole, size))
        if self.local_crops:
            local = batch["local"].reshape(-1, *self.local_size, self.model.channels)
            local_tokens = encode(local, noise=merged(draws["local_drop_path"]))
            cls = jnp.concatenate([cls, parted(head(local_tokens[:, :1])[0], size)], axis=1)
            trace["student_local_tokens"] = parted(local_tokens, size)
        when = (progress.epoch, self.mask_start_epoch)
        terms, arrays = self.distillation.compare((cls, patches), teacher, centers(extra), hidden, *when)
        metrics = {"agreement": (cls[:, 1].argmax(-1) == teacher[0][:, 0].argmax(-1)).astype(jnp.float32).mean()}
        trace |= dict(student_cls=cls, student_patch=patches, teacher_cls=teacher[0], teacher_patch=teacher[1])
        first = dict(latent=trace["student_tokens"], pred=patches, **arrays)  # of crop 1 alone, as is the mask
        trace |= {name: array[:, 0] for name, array in first.items()}
        trace["mask"] = Mask(hidden[:, 0], grid=self.model.grid)
        return sum(terms.values()), Output(terms, metrics, size, self.distillation.means(teacher), trace)

    def update(self, extra, params, output, progress):
        decay = cosine_ramp(self.ema_momentum, 1.0, progress.step / progress.total_steps)
        teacher = ema_update(extra["teacher"], shared_part(params, extra["teacher"]), decay)
        return {"teacher": teacher, **self.distillation.moved(centers(extra), output.carry)}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.modules(teacher=True)[0], self.encoder_params(params, extra), images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        trace = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        features = {"teacher": trace["teacher_tokens"][:, 0, 1:], "student": trace["latent"][:, 1:]}
        clusters, images = {"clusters of the teacher": trace["target"].argmax(-1)}, batch["image"]
        attention = cls_attention(self.model, extra["teacher"]["encoder"], images)
        return feature_pictures(images, trace["mask"], features, clusters, attention)

    def param_groups(self) -> ParamGroups:
        frozen = () if self.head.train_gain else (r"head/last_layer\w*/gain",)
        return dataclasses.replace(vit_groups(self.model.depth), frozen=frozen, frozen_first=(r"head/last_layer",))

    def flops(self) -> float:
        model, (head, teacher_head) = self.model, (self.head.module(), self.head.module(teacher=True))
        whole = 3 * crop_flops(model, head, model.image_size) + crop_flops(model, teacher_head, model.image_size)
        local = 3 * crop_flops(model, head, self.local_size, head_on_patches=False) if self.local_crops else 0.0
        return 2 * whole + self.local_crops * local
