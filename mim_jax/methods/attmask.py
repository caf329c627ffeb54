"""AttMask: What to Hide from Your Students: Attention-Guided Masked Image Modeling (Kakogeorgiou et al. ECCV 2022).

Hidden: in half of the crops nothing, in the others 10 to 50 % of the patches, those to which the class token of the
teacher attends most, replaced by a mask token; `hint` shows a few of them again. The rest is iBOT: predicted is what
the teacher, a moving average that sees the whole crop, says of each hidden patch and of the class token of every other
crop; by the ViT and a projection head; error: cross-entropy of two softmaxes.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from mim_jax.errors import ConfigError
from mim_jax.masking.attention_guided import AttentionGuided
from mim_jax.methods.crops import merged, parted
from mim_jax.methods.self_distillation import SelfDistillation
from mim_jax.models.attention_map import tokens_and_attention


@dataclasses.dataclass(frozen=True)
class AttMask(SelfDistillation):
    """AttMask on iBOT; the defaults are AttMask-High of the released ViT-S recipe."""

    name: ClassVar[str] = "attmask"
    masking: str = "high"  # high | hint (high, with a few shown) | low (the least attended, as a control)
    mask_ratio: float = 0.3
    mask_ratio_spread: float = 0.2  # plus or minus up to this
    masked_share: float = 0.5  # of the crops of which anything is hidden
    hint_share: float = 0.1  # of the patches: the most attended, from which hints are drawn
    mask_group: int = 0  # consecutive images that share their ratio, a device's in the authors' runs; 0: the batch

    @property
    def guide(self) -> AttentionGuided:
        """The sampler of masks."""
        ratio = (self.masking, self.mask_ratio, self.mask_ratio_spread)
        return AttentionGuided(*ratio, self.masked_share, self.hint_share, self.mask_group)

    def check(self) -> None:
        self.guide.check(self.model.tokens)
        if self.mask_start_epoch < 0:
            raise ConfigError(f"method.mask_start_epoch {self.mask_start_epoch} must be 0 or more")

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> AttMask:
        settings = dict(masking="hint", mask_ratio=0.5, masked_share=0.75, hint_share=0.25)
        return cls.tiny_of(image_size, channels, model, **settings)

    def draw(self, params, extra, frozen, batch, key, progress):
        """The teacher decides what is hidden, so it has seen the crops before the student does; what it said of them
        is kept, so that it runs once a step."""
        size, (mask_key, *path_keys) = len(batch["image"]), jax.random.split(key, 3)
        teacher = self.modules(teacher=True)[0].config
        tokens, attention = tokens_and_attention(teacher, extra["teacher"]["encoder"], self.whole_crops(batch))
        hidden = self.guide.draw(mask_key, parted(attention, size), self.begun(progress))
        return {"hidden": hidden, "teacher_tokens": parted(tokens, size), **self.drop_paths(*path_keys, size)}

    def teacher_tokens(self, extra, crops, draws):
        return merged(draws["teacher_tokens"])
