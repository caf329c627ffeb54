"""BEiT: BERT Pre-Training of Image Transformers (Bao, Dong, Piao, Wei. ICLR 2022).

Hidden: about 40 % of the patches, in blocks, replaced by a mask token. Predicted: the id that a frozen tokenizer gives
each patch, from its own view of the same crop. By whom: the whole ViT and one linear layer. Error: cross-entropy over
the hidden patches of the batch.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from mim_jax.methods.token_prediction import FAMILY, TokenPrediction

__all__ = ["FAMILY", "BEiT"]


@dataclasses.dataclass(frozen=True)
class BEiT(TokenPrediction):
    """BEiT; the defaults are the released base model, not the paper's first version (learned positions)."""

    name: ClassVar[str] = "beit"
