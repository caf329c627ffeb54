"""MSN: Masked Siamese Networks for Label-Efficient Learning (Assran et al. ECCV 2022).

Hidden: a share of the patches of one whole crop, dropped, and, because they are small, most of the image in ten others.
Predicted: to which of 1024 learned prototypes another whole crop belongs, softly, as a moving average of the model sees
it. By whom: a ViT's class token and a projector. Error: cross-entropy, and a term that keeps all prototypes in use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import check_choices
from mim_jax.losses.prototypes import STRETCH, PrototypeLoss, use_of
from mim_jax.masking.mask import mask_from_noise
from mim_jax.masking.random import visible_count
from mim_jax.methods import crops
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables, ViewShape
from mim_jax.methods.building import check_numbers, section
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.attention_map import cls_attention
from mim_jax.models.projected_vit import ProjectedVit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.ema import ema_start, ema_update, linear_ramp, shared_part
from mim_jax.nn.init import fan_in_uniform
from mim_jax.nn.sparse import blended

FAMILY: dict[str, Any] = dict(positions="learned", init="msn")


@dataclasses.dataclass(frozen=True)
class MSN(Method):
    """MSN; the defaults are the released ViT-S recipe. Views: the anchors, `image` (and `more` of its size, where there
    are any) and `local`; the target, `image2`. Batch norms see a batch's whole and its small anchors apart."""

    name: ClassVar[str] = "msn"
    scores_visible: ClassVar[bool] = True  # the class token alone is compared
    batch_statistics: ClassVar[bool] = True
    without_gradient: ClassVar[tuple[str, ...]] = (r"head/linear_[01]/bias",)  # batch norms take them out again
    encoder_copies: ClassVar[tuple[str, ...]] = ("target/encoder",)  # which the authors evaluate
    model: VitConfig = VitConfig(**FAMILY)
    patch_drop: float = 0.15  # share of the patches that a whole anchor loses
    shared_drop: bool = True  # all whole anchors of a batch lose the same patches (code); False: each its own (paper)
    whole_anchors: int = 1
    local_crops: int = 10  # small anchors, which keep all patches
    local_size: tuple[int, int] = (96, 96)
    head_hidden: int = 2048
    head_outputs: int = 256
    head_norm: str = "batch"  # batch | none
    prototypes: int = 1024
    assignment: PrototypeLoss = PrototypeLoss()
    ema_momentum: float = 0.996  # of the target at the start; 1 after 1.25 times the run

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> MSN:
        vit = vit_config(model, FAMILY)
        values = section(cls, method, "method")
        values["assignment"] = PrototypeLoss.from_section(values.get("assignment", {}))
        made = cls(model=vit, **values)
        crops.check_crops(vit, made.local_crops, made.local_size)
        check_choices(made, "method", head_norm=("batch", "none"))
        check_numbers(made, ("whole_anchors", "head_hidden", "head_outputs", "prototypes"), ("ema_momentum",))
        visible_count(vit.tokens, made.patch_drop or 0.5, "method.patch_drop")  # 0 drops nothing
        return made

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> MSN:
        # Class tokens of another start differ more, so that batch norms divide by no tiny deviations.
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2)
        sizes = dict(patch_drop=0.4, local_crops=2, local_size=(8, 8), head_hidden=24, head_outputs=8, prototypes=12)
        return cls.from_config(vit | dict(init="mae") | model, sizes | dict(assignment=dict(temperature=0.5)))

    @property
    def seen(self) -> int:
        return visible_count(self.model.tokens, self.patch_drop) if self.patch_drop else self.model.tokens

    @property
    def passes(self) -> list[tuple[int, crops.Size]]:  # together through the networks; only the first loses patches
        return crops.passes((self.whole_anchors, self.model.image_size), (self.local_crops, self.local_size))

    def views(self) -> dict[str, ViewShape]:
        return crops.crop_views(self.model, self.local_crops, self.local_size, self.whole_anchors - 1)

    @property
    def network(self) -> ProjectedVit:
        return ProjectedVit(self.model, self.head_hidden, self.head_outputs, self.head_norm == "batch")

    def init(self, key, batch) -> Variables:
        keys = jax.random.split(key)
        network, moments = self.network.init(keys[0], batch["image"][:1])
        prototypes = fan_in_uniform(self.head_outputs)(keys[1], (self.prototypes, self.head_outputs))
        statistics = {side: jax.tree.map(jnp.copy, moments) for side in ("anchor", "target")}
        extra = {"target": ema_start(network), "statistics": statistics}
        return Variables(params={**network, "prototypes": prototypes}, extra=extra)

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, target_key, *keys) = len(batch["image"]), jax.random.split(key, 4)
        shape = (size, self.passes[0][0], self.model.tokens)
        noise = jax.random.uniform(mask_key, (1, 1, shape[2]) if self.shared_drop else shape)
        paths = [crops.crop_noise(keys[i], size, number, self.model) for i, (number, _) in enumerate(self.passes)]
        target_path = crops.crop_noise(target_key, size, 1, self.model)  # the target drops paths, too, in the original
        return {"noise": jnp.broadcast_to(noise, shape), "drop_path": paths, "target_drop_path": target_path}

    def forward(self, params, extra, frozen, batch, draws, progress):
        size, statistics = len(batch["image"]), extra["statistics"]
        anchors = crops.crops_by_size(batch, [name for name in ("image", "more", "local") if name in self.views()])
        mask = mask_from_noise(crops.merged(draws["noise"]), self.seen, self.model.grid)
        shown, found = {"visible": mask.visible} if self.patch_drop else {}, []
        for images, noise in zip(anchors, draws["drop_path"], strict=True):
            given = (params, statistics["anchor"], crops.merged(images))
            found.append(self.network.embed(*given, noise=crops.merged(noise), **shown))
            shown = {}  # small anchors keep all
        given = (extra["target"], statistics["target"], batch["image2"])
        _, target, moments = self.network.embed(*given, noise=crops.merged(draws["target_drop_path"]))
        embeddings = jnp.concatenate([crops.parted(embedding, size) for _, embedding, _ in found], axis=1)
        given = (embeddings, target, params["prototypes"], progress.step / progress.total_steps)
        loss, terms, arrays = self.assignment(*given)
        mask = mask_from_noise(draws["noise"][:, 0], self.seen, self.model.grid)  # of the first anchor, as is latent
        trace = dict(mask=mask, latent=crops.parted(found[0][0], size)[:, 0], pred=embeddings, target_embedding=target)
        carry = {"anchor": tuple(moved for *_, moved in found), "target": (moments,)}
        return loss, Output(terms, use_of(arrays["target"]), float(size), carry, trace | arrays)

    def update(self, extra, params, output, progress):
        """Running statistics move once per pass, the whole anchors' first; the target follows what is trained."""
        statistics = {side: blended(old, output.carry[side]) for side, old in extra["statistics"].items()}
        decay = linear_ramp(self.ema_momentum, 1.0, progress.step / (STRETCH * progress.total_steps))
        shared = shared_part(params, extra["target"])
        return {"target": ema_update(extra["target"], shared, decay), "statistics": statistics}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.network.modules()[0], self.encoder_params(params, extra), images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        trace, images = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace, batch["image"]
        features = {"target network": self.encode(params, images, extra=extra).patches}
        attention = cls_attention(self.model, extra["target"]["encoder"], images)
        return crops.feature_pictures(images, trace["mask"], features, {}, attention)

    def param_groups(self) -> ParamGroups:
        return dataclasses.replace(vit_groups(self.model.depth), no_decay=(r"^prototypes$",))

    def flops(self) -> float:
        one = lambda patches: self.network.flops(patches) + 2 * self.head_outputs * self.prototypes  # noqa: E731
        (whole, _), *small = self.passes
        local = sum(number * one(crops.patches(self.model, size)) for number, size in small)
        return 3 * (whole * one(self.seen) + local) + one(self.model.tokens)
