"""ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders (Hinojosa et al. ECCV 2024).

Hidden: 75 % of the patches, where filtered noise is small; the filter decides whether what stays is in blobs, spread
evenly, or between. Predicted, by whom, error: MAE's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mim_jax.errors import ConfigError
from mim_jax.masking.colour_noise import NoiseConfig, noise_mask
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Variables
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder


@dataclasses.dataclass(frozen=True)
class ColorMAE(MaskedAutoencoder):
    """MAE with masks of coloured noise; the defaults are the paper's best, green. `frozen` holds the bank of noise."""

    name: ClassVar[str] = "colormae"
    family: ClassVar[Mapping[str, Any]] = {"positions": "sincos_row"}  # mmpretrain's table, in the decoder too

    noise: NoiseConfig = NoiseConfig()

    @classmethod
    def settings(cls, values):
        return values | {"noise": NoiseConfig.from_section(values.get("noise", {}))}

    def check(self) -> None:
        super().check()
        if self.noise.size < max(self.model.grid):
            raise ConfigError(
                f"method.noise.size {self.noise.size} is smaller than the grid {self.model.grid} of patches that is "
                "cut out of it; raise it"
            )

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(noise=dict(count=4, size=16))

    def sources(self) -> dict[str, str]:
        return {"noise": self.noise.source} if self.noise.source else {}

    def init(self, key, batch) -> Variables:
        return super().init(key, batch).replace(frozen={"noise": self.noise.bank()})

    def mask(self, key, batch: int, frozen=None) -> Mask:
        return noise_mask(key, frozen["noise"], batch, self.model.grid, self.seen)
