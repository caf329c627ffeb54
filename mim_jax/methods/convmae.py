"""ConvMAE: Masked Convolution Meets Masked Autoencoders (Gao, Ma, Li, Lin, Dai, Qiao. NeurIPS 2022, as MCMAE).

Hidden: 75 % of the patches of the last grid, at random; in the finer grids of the convolutions the same pixels, which
they do not look across. Predicted: their pixels, standardised per patch. By whom: convolutions on the whole image, a
transformer on the visible tokens to which their maps are added at the end, and MAE's decoder. Error: mean square over
the hidden.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from mim_jax.methods.conv_vits import ConvVitAutoencoder


@dataclasses.dataclass(frozen=True)
class ConvMAE(ConvVitAutoencoder):
    """Masked autoencoder behind masked convolutions; the defaults are the released base model."""

    name: ClassVar[str] = "convmae"
