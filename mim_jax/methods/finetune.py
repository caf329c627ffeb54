"""Fine-tuning: an encoder and a linear classifier trained together on labels (BEiT, section 3.1; MAE, appendix A.1).

Hidden: nothing. Predicted: the class, smoothed, and mixed where images are mixed. By whom: the pretrained encoder, its
pooled tokens through one linear layer. Error: cross-entropy. Where the encoder comes from is the run's business
(`training.start_from`), so that the same method is the baseline from scratch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mim_jax.errors import DataError, check_choices
from mim_jax.losses.soft_targets import soft_binary, soft_cross_entropy
from mim_jax.methods import classifiers
from mim_jax.methods.base import Batch, Features, Method, Output, ParamGroups, Pictures, Tree, Variables, ViewShape
from mim_jax.methods.building import section
from mim_jax.methods.crops import merged, parted
from mim_jax.models.classifier import POOLINGS, Classified
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.ema import ema_update
from mim_jax.nn.sparse import MOMENTUM
from mim_jax.targets.mixing import draw_mix, mix_images, mix_labels, soft_labels

LOSSES = {"cross_entropy": soft_cross_entropy, "binary": soft_binary}
MODES = ("batch", "each")


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """An encoder (ViT, ConvMAE's, Swin, ResNet or ConvNeXt: `model.arch`) with a classifier; defaults: MAE's ViT-B."""

    name: ClassVar[str] = "finetune"
    masks: ClassVar[bool] = False
    encoder_statistics: ClassVar[str] = "encoder"

    model: classifiers.EncoderConfig = VitConfig()
    classes: int = 1000
    pooling: str = "mean"  # of a vision transformer: mean | cls | all (patches and class token)
    criterion: str = "cross_entropy"  # cross_entropy | binary
    label_smoothing: float = 0.1
    mixup: int | float = 0.8  # parameter of the Beta distribution; 0: none
    cutmix: int | float = 1.0
    mixup_probability: float = 1.0
    mixup_switch_probability: float = 0.5  # of CutMix, where both are on
    mixup_mode: str = "batch"  # batch (one choice for all images) | each
    repeated: int = 1  # crops of each image in a batch (repeated augmentation); the views have so many
    trainable_blocks: int | float = 0  # 0: all; k: the last k blocks and the head; 0.5: half a block, the perceptron
    head_std: float = 0.0  # of the head's first weights; 0: as the family has it

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Finetune:
        made = cls(model=classifiers.encoder_config(model), **section(cls, method, "method"))
        check_choices(made, "method", pooling=POOLINGS, criterion=LOSSES, mixup_mode=MODES)
        classifiers.check(made.model, made)
        return made

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> Finetune:
        sizes = dict(patch_size=4, width=16, depth=2, heads=2) if model.get("arch", "vit") == "vit" else {}
        return cls.from_config(sizes | dict(image_size=image_size, channels=channels) | model, dict(classes=10))

    @property
    def mixes(self) -> bool:
        return max(self.mixup, self.cutmix) > 0 and self.mixup_probability > 0

    def module(self, running: bool = False):
        return classifiers.classifier(self.model, self.classes, self.pooling, self.head_std, running)

    def views(self) -> dict[str, ViewShape]:
        return {"image": ViewShape(self.model.image_size, self.model.channels, self.repeated)}

    def init(self, key, batch) -> Variables:
        made = self.module().init(key, batch["image"].reshape(-1, *batch["image"].shape[-3:])[:1])
        return Variables(params=made["params"], extra=made.get("batch_stats", {}))

    def crops(self, batch: Batch) -> tuple[Float[Array, "C H W D"], Int[Array, " C"]]:
        """Images and labels, crop by crop where images are repeated."""
        images = batch["image"]
        return images.reshape(-1, *images.shape[-3:]), jnp.repeat(batch["label"], self.repeated)

    def draw(self, params, extra, frozen, batch, key, progress):
        """Partners are part of the draws, so that micro-batches mix the images that the whole batch mixes."""
        if "label" not in batch:
            raise DataError("fine-tuning needs labels, and the images of data.source have none; name a labelled source")
        images, labels = self.crops(batch)
        mix_key, path_key = jax.random.split(key)
        draws = {"drop_path": classifiers.path_noise(self.model, path_key, len(images))}
        if self.mixes:
            settings = (self.mixup, self.cutmix, self.mixup_probability, self.mixup_switch_probability)
            mix = draw_mix(mix_key, len(images), self.model.image_size, *settings, each=self.mixup_mode == "each")
            draws |= {"mix": mix, "partner": images[::-1], "partner_label": labels[::-1]}
        return jax.tree.map(lambda x: parted(x, len(batch["image"])), draws)

    def forward(self, params, extra, frozen, batch, draws, progress):
        draws, (images, labels) = jax.tree.map(merged, draws), self.crops(batch)
        target, likeliest = soft_labels(labels, self.classes, self.label_smoothing), labels
        if self.mixes:
            mix, partners = draws["mix"], draws["partner_label"]
            images = mix_images(images, draws["partner"], mix)
            target = mix_labels(labels, partners, mix.share, self.classes, self.label_smoothing)
            likeliest = jnp.where(mix.share >= 0.5, labels, partners)
        variables = {"params": params, "batch_stats": extra}
        out, moved = self.module().apply(variables, images, draws["drop_path"], mutable=["batch_stats"])
        per_image = LOSSES[self.criterion](out.logits, target)
        loss = per_image.mean()
        metrics = {"top1": (out.logits.argmax(-1) == likeliest).mean(dtype=jnp.float32)}  # of the larger share
        trace = dict(images=images, target=target, logits=out.logits, latent=out.features, loss_per_image=per_image)
        return loss, Output({self.criterion: loss}, metrics, jnp.float32(len(images)), moved.get("batch_stats"), trace)

    def update(self, extra, params, output, progress):
        return ema_update(extra, output.carry, 1.0 - MOMENTUM) if extra else extra

    def classify(self, params: Tree, images: Float[Array, "B H W C"], extra: Tree = None, layers=False) -> Classified:
        """Logits and features of images as they are; batch norms use the running statistics in `extra`, or without
        any those of the images given."""
        variables = {"params": params, "batch_stats": extra or {}}
        return self.module(bool(extra)).apply(variables, images, layers=layers, mutable=["batch_stats"])[0]

    def classifier(self, params: Tree) -> tuple[Float[Array, "D K"], Float[Array, " K"]]:
        return params["head"]["kernel"], params["head"]["bias"]

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """`pooled` is what the head receives; with mean pooling there is no final norm, and tokens come without one."""
        out = self.classify(params, images, extra, bool(layers))
        return classifiers.features(self.model, out, images.shape[1:3])

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        """Where the largest logit is most sensitive to the pixels."""
        images = batch["image"] if self.repeated == 1 else batch["image"][:, 0]
        slope = jax.grad(lambda x: self.classify(params, x, extra).logits.max(-1).sum())(images)
        return Pictures({"input": images}, {"gradient": jnp.abs(slope).sum(-1)})

    def param_groups(self) -> ParamGroups:
        views = {name: jax.ShapeDtypeStruct(shape.array(1), jnp.float32) for name, shape in self.views().items()}
        shapes = jax.eval_shape(self.init, jax.random.key(0), views).params
        return classifiers.groups_of(self.model, shapes, self.trainable_blocks)

    def flops(self) -> float:
        return self.repeated * classifiers.forward_and_backward_flops(self.model, self.classes)
