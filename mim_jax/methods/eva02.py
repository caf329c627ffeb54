"""EVA: Exploring the Limits of Masked Visual Representation Learning at Scale (Fang et al. CVPR 2023), and EVA-02: A
Visual Representation for Neon Genesis (Fang et al. 2023).

Hidden: about 40 % of the patches, in blocks, replaced by a mask token. Predicted: the direction of a frozen CLIP's
projected feature of each patch. By whom: the whole ViT, in EVA-02 with rotary positions and gated perceptrons, and one
linear layer. Error: one minus the cosine, over the batch's hidden patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mim_jax.methods.feature_prediction import FeaturePrediction
from mim_jax.models.vit_config import VitConfig

FAMILY: dict[str, Any] = dict(
    positions="learned",
    qkv_bias="qv",
    mlp="swiglu_exact",
    mlp_ratio=8 / 3,
    mlp_norm=True,  # in B and L
    rope=16,
    patch_gradient=0.1,
    patch_size=(14, 14),
    init="eva02",
)


@dataclasses.dataclass(frozen=True)
class EVA02(FeaturePrediction):
    """EVA-02; the defaults are its base model, and configs/eva02 sets EVA-01's."""

    name: ClassVar[str] = "eva02"
    family: ClassVar[Mapping[str, Any]] = FAMILY

    model: VitConfig = VitConfig(**FAMILY)
    num_mask_patches: int = 105
