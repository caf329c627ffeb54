"""iBOT: Image BERT Pre-Training with Online Tokenizer (Zhou et al. ICLR 2022).

Hidden: in half of the crops nothing, in the others 10 to 50 % of the patches, in blocks, replaced by a mask token.
Predicted: what an exponential moving average of the model, which sees the whole crop, says of each hidden patch, and
of the class token of every other crop. By whom: the ViT and a projection head on all its tokens. Error: cross-entropy
of two softmaxes, the teacher's centred and sharpened; over hidden patches, and over pairs of crops.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from mim_jax.masking.mixed_ratio import check_masking, mixed_ratio_hidden
from mim_jax.methods.crops import parted
from mim_jax.methods.self_distillation import SelfDistillation


@dataclasses.dataclass(frozen=True)
class IBOT(SelfDistillation):
    """iBOT; the defaults are the released ViT-S recipe."""

    name: ClassVar[str] = "ibot"
    masking: str = "block"  # block | random
    mask_ratio: tuple[float, ...] = (0.0, 0.3)  # one of these, per crop
    mask_ratio_spread: tuple[float, ...] = (0.0, 0.2)  # plus or minus up to this

    def check(self) -> None:
        ratios = (self.mask_ratio, self.mask_ratio_spread)
        check_masking(self.masking, *ratios, self.mask_start_epoch, self.model.tokens)

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> IBOT:
        return cls.tiny_of(image_size, channels, model, mask_ratio=(0.0, 0.5))

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, *path_keys) = len(batch["image"]), jax.random.split(key, 3)
        ratios = (self.mask_ratio, self.mask_ratio_spread, self.masking, self.begun(progress))
        hidden = mixed_ratio_hidden(mask_key, 2 * size, self.model.grid, *ratios)
        return {"hidden": parted(hidden, size), **self.drop_paths(*path_keys, size)}
