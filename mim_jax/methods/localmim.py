"""LocalMIM: Masked Image Modeling with Local Multi-Scale Reconstruction (Wang, Tang, Wang, Guo, Deng, Han. CVPR 2023).

Hidden: 75 % of the patches, at random, dropped. Predicted: histograms of oriented gradients in cells of a quarter, a
half, one and two patches a side. By whom: MAE's encoder, and at four of its depths a small decoder, the finest scale at
the shallowest. Error: mean square over what is hidden of each scale, added up. Lower layers are trained by losses of
their own. With `model.arch` 'swin' it is the form for a Swin transformer (`localmim_swin`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Features
from mim_jax.methods.local_reconstruction import LocalReconstruction
from mim_jax.methods.localmim_swin import LocalMIMSwin
from mim_jax.methods.transformers import vit_features
from mim_jax.models.local_decoder import LocalDecoder, TapNorms, local_decoder_flops
from mim_jax.models.swin_config import ARCHS
from mim_jax.models.vit import Vit, vit_flops

DOUBLINGS = (2, 1, 0, -1)  # of the grid of patches, tap by tap


@dataclasses.dataclass(frozen=True)
class LocalMIM(LocalReconstruction):
    """Local multi-scale reconstruction of a ViT; the defaults are those of ViT-B/16. ViT-L has 18 `hog_bins` and
    `hog_bias`."""

    decoder_width: int = 256
    decoder_heads: int = 8
    taps: tuple[int, ...] = ()  # blocks, from 0; (): 1, 3, depth - 3, depth - 1

    @classmethod
    def from_config(cls, model, method) -> Any:
        arch = model.get("arch", "vit")
        if arch not in ("vit", *ARCHS):
            raise ConfigError(f"model.arch '{arch}' is not known{nearest(arch, ('vit', *ARCHS))}")
        if arch != "vit":
            return LocalMIMSwin.from_config(model, method)
        return super().from_config({k: v for k, v in model.items() if k != "arch"}, method)

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> Any:
        if model.get("arch", "vit") == "vit":
            return super().tiny(image_size, channels, **model)
        return LocalMIMSwin.tiny(image_size, channels, **model)

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(taps=(0, 0, 1, 1), hog_bins=5)

    def check(self) -> None:
        super().check()
        depth, taps = self.model.depth, self.blocks
        if len(taps) != len(DOUBLINGS) or list(taps) != sorted(taps) or not 0 <= taps[0] <= taps[-1] < depth:
            raise ConfigError(f"method.taps {taps} must be {len(DOUBLINGS)} rising numbers of blocks below {depth}")
        if any(side % 4 for side in self.model.patch_size) or any(side % 2 for side in self.model.grid):
            raise ConfigError(
                f"model.patch_size {self.model.patch_size} must be multiples of 4 and the grid of patches "
                f"{self.model.grid} even; LocalMIM has cells of a quarter and of two patches a side"
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose outputs are decoded."""
        return self.taps or (1, 3, self.model.depth - 3, self.model.depth - 1)

    @property
    def doublings(self) -> tuple[int, ...]:
        return DOUBLINGS

    @property
    def cell(self) -> tuple[int, int]:
        return self.model.patch_size

    @property
    def tap_shapes(self) -> tuple[tuple[int, int], ...]:
        return ((self.model.prefix + self.seen, self.model.width),) * len(DOUBLINGS)

    def modules(self) -> tuple[Vit, TapNorms]:
        return Vit(self.model, final_norm=False), TapNorms(self.model.dtype, self.model.layer_norm_eps)

    def decoders(self) -> dict[str, LocalDecoder]:
        sizes = (self.decoder_width, self.decoder_stack, self.tap_outputs(0))
        return {f"decoder_{i}": LocalDecoder(*sizes, n, self.model.prefix) for i, n in enumerate(DOUBLINGS)}

    def shown(self, draws):
        return {"visible": draws["mask"].visible, "noise": draws["drop_path"]}

    def latents(self, params, images, **shown):
        encoder, norms = self.modules()
        outputs: Any = encoder.apply({"params": params["encoder"]}, images, layers=True, **shown)[1]
        found: Any = norms.apply({"params": params["norms"]}, tuple(outputs[i] for i in self.blocks))
        return found

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """Normalised by the last tap's norm."""
        return self.whole(params, images, vit_features(self.modules()[0], params["encoder"], images, layers))

    def flops(self) -> float:
        outputs = self.tap_outputs(0)
        sizes = (self.seen, self.model.tokens, self.model.width, self.decoder_width, self.decoder_stack, outputs)
        return 3 * (vit_flops(self.model, self.seen) + sum(local_decoder_flops(*sizes, n) for n in DOUBLINGS))
