"""MFF: Improving Pixel-based MIM by Reducing Wasted Modeling Capability (Liu, Zhang, Chen, Yu, Chen, Lin. ICCV 2023).

Hidden, predicted, error: MAE's. By whom: MAE's encoder and decoder, and between them a fusion: outputs of shallow
blocks, each through a linear layer, and the last one, averaged with learned weights. Detail then need not be carried
through the deep blocks. Evaluation sees the plain encoder; its final norm has been trained on the fused tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mim_jax.errors import ConfigError
from mim_jax.methods.base import ParamGroups
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.models.fusion import TapFusion, fusion_flops
from mim_jax.models.vit import Vit
from mim_jax.nn.norms import layer_norm


@dataclasses.dataclass(frozen=True)
class MFF(MaskedAutoencoder):
    """MAE with multi-level feature fusion; the defaults are those of ViT-B/16."""

    name: ClassVar[str] = "mff"
    family: ClassVar[Mapping[str, Any]] = {"positions": "sincos_row"}  # mmpretrain's table, in the decoder too

    taps: tuple[int, ...] = (0, 2, 4, 6, 8, 11)  # blocks, from 0, in rising order; the last has no linear layer
    decoder_mlp_ratio: float = 4.0

    def check(self) -> None:
        super().check()
        depth, taps = self.model.depth, list(self.taps)
        if not taps or taps != sorted(set(taps)) or not 0 <= taps[0] <= taps[-1] < depth:
            raise ConfigError(
                f"method.taps {self.taps} must be numbers of blocks in rising order, from 0 to {depth - 1}, such as "
                f"{(0, depth - 1) if depth > 1 else (0,)}"
            )
        if self.decoder_mlp_ratio <= 0:
            raise ConfigError(f"method.decoder_mlp_ratio {self.decoder_mlp_ratio} must be positive, such as 4.0")

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(taps=(0, 1))

    @property
    def decoder_stack(self):
        return dataclasses.replace(super().decoder_stack, mlp_ratio=self.decoder_mlp_ratio)

    @property
    def fusion(self) -> TapFusion:
        return TapFusion(self.model.dtype)

    def parts(self, images):
        parts = super().parts(images)
        latent = parts["decoder"][1]
        return parts | {"fusion": (self.fusion, (latent,) * len(self.taps))}

    def latent(self, params, images, draws):
        encoder, c = Vit(self.model, final_norm=False), self.model
        shown = {"visible": draws["mask"].visible, "noise": draws["drop_path"]}
        _, outputs = encoder.apply({"params": params["encoder"]}, images, layers=True, **shown)
        taps = tuple(outputs[i] for i in self.taps)
        fused, weights = self.fusion.apply({"params": params["fusion"]}, taps)
        norm = layer_norm(None, c.dtype, c.layer_norm_eps)
        latent = norm.apply({"params": params["encoder"]["norm"]}, fused)
        return latent, {"taps": taps, "fusion_weights": weights}

    def forward(self, params, extra, frozen, batch, draws, progress):
        loss, output = super().forward(params, extra, frozen, batch, draws, progress)
        weights = {f"fusion_weight_{tap}": output.trace["fusion_weights"][i] for i, tap in enumerate(self.taps)}
        return loss, output.replace(metrics=weights)

    def param_groups(self) -> ParamGroups:
        """Tokens take no decay, as mmpretrain has it; the weight of a single tap says nothing, so it stands still."""
        frozen = ("fusion/weights",) if len(self.taps) == 1 else ()
        return dataclasses.replace(super().param_groups(), no_decay=("cls_token", "mask_token"), frozen=frozen)

    def flops(self) -> float:
        fusion = fusion_flops(self.model.prefix + self.seen, self.model.width, len(self.taps))
        return super().flops() + 3 * fusion
