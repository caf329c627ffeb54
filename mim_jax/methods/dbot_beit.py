"""dBOT in its second form, which learns from CLIP: Exploring Target Representations for Masked Autoencoders (Liu,
Zhou, Kong, Lin, Ji. ICLR 2024), branch `beit` of the released code.

Hidden: 40 % of the patches, in blocks, replaced by a mask token. Predicted: a frozen CLIP's projected feature of each
patch. By whom: BEiT's whole ViT and one linear layer. Error: one minus the cosine, over the batch's hidden patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mim_jax.methods.feature_prediction import FeaturePrediction
from mim_jax.models.vit_config import VitConfig

FAMILY: dict[str, Any] = dict(positions="none", qkv_bias="qv", relative_bias="shared", layer_scale=0.1, init="beit")


@dataclasses.dataclass(frozen=True)
class DBOTBeit(FeaturePrediction):
    """Features of CLIP behind mask tokens; the defaults are the released recipe."""

    name: ClassVar[str] = "dbot_beit"
    family: ClassVar[Mapping[str, Any]] = FAMILY

    model: VitConfig = VitConfig(**FAMILY)
    num_mask_patches: int = 78
