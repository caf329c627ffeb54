"""LocalMIM with a Swin transformer (Wang et al. CVPR 2023), which sees visible cells alone as in Green Hierarchical
Vision Transformer for Masked Image Modeling (Huang et al. NeurIPS 2022).

Hidden: about 75 % of the squares that tokens of the last stage stand for (32 pixels), the same in all images of a
batch, dropped. Predicted: histograms of oriented gradients or standardised pixels, in cells as large as the tokens that
each stage hands on (8, 16, 32 and 32 pixels). By whom: a Swin transformer that computes visible tokens alone, and a
decoder of one block for each stage. Error: mean square over what is hidden of each scale, added up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from mim_jax.errors import ConfigError, check_choices
from mim_jax.masking.mask import Mask
from mim_jax.masking.units import refined, shared_mask
from mim_jax.methods.base import Features, ParamGroups
from mim_jax.methods.building import section
from mim_jax.methods.hierarchical import swin_features, swin_groups
from mim_jax.methods.local_reconstruction import LocalReconstruction
from mim_jax.models.local_decoder import TapNorms
from mim_jax.models.mae_decoder import MaeDecoder, mae_decoder_flops
from mim_jax.models.swin import Swin
from mim_jax.models.swin_config import SwinConfig
from mim_jax.models.swin_visible import visible_swin_flops
from mim_jax.nn.block import StackConfig
from mim_jax.nn.init import INITS


@dataclasses.dataclass(frozen=True)
class LocalMIMSwin(LocalReconstruction):
    """Local multi-scale reconstruction of a Swin transformer; the defaults are those of Swin-B with histograms."""

    targets: ClassVar[tuple[str, ...]] = ("hog", "norm_pix", "pixel")
    family: ClassVar[Mapping[str, Any]] = dict(image_size=(224, 224), window_size=7, layer_norm_eps=1e-6)

    model: SwinConfig = SwinConfig(**family)  # type: ignore[assignment]
    target: str = "hog"  # hog | norm_pix (standardised per cell) | pixel
    decoder_width: int = 128  # half as wide behind the first stage
    decoder_heads: int = 4
    hog_bins: int = 18
    hog_bias: bool = True
    mask_group: int = 0  # consecutive images with the same cells hidden; 0: the batch, whose tables are made once
    places: str = "listed"  # listed (the released code's) | true: where later stages take their tokens to lie

    @classmethod
    def encoder_config(cls, model: Mapping[str, Any]) -> SwinConfig:
        return SwinConfig.from_section({**cls.family, **section(SwinConfig, model, "model")})

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> LocalMIMSwin:
        sizes = dict(patch_size=2, depths=(2, 2), heads=(1, 2), window_size=2, width=16, arch="swin")
        sizes |= dict(image_size=image_size, channels=channels) | model
        return cls.from_config(sizes, dict(decoder_width=16, decoder_heads=2, hog_bins=5))

    def check(self) -> None:
        super().check()
        check_choices(self, "method", places=("listed", "true"))
        cells = math.prod(self.grid)
        if self.seen < 1:
            raise ConfigError(
                f"method.mask_ratio {self.mask_ratio} hides {self.hidden} of the {cells} cells; one must stay visible, "
                f"so choose a ratio above 0 and below {(cells - 1) / cells:.3g}"
            )
        if self.mask_group < 0:
            raise ConfigError(f"method.mask_group {self.mask_group} must be 0 (the whole batch) or more")
        if self.decoder_width % 8 or self.width(0) % self.decoder_heads:
            raise ConfigError(
                f"method.decoder_width {self.decoder_width} must be a multiple of 8, and half of it one of "
                f"method.decoder_heads {self.decoder_heads}: the decoder behind the first stage is half as wide"
            )

    @property
    def grid(self) -> tuple[int, int]:  # of the cells, the last stage's tokens
        return self.model.stage_grid(len(self.model.depths) - 1)

    @property
    def hidden(self) -> int:  # one more than the ratio's whole part, as the authors' comparison counts: 37 of 49
        return int(self.mask_ratio * math.prod(self.grid)) + 1

    @property
    def seen(self) -> int:
        return math.prod(self.grid) - self.hidden

    @property
    def doublings(self) -> tuple[int, ...]:
        """Stages merge before they are decoded; the last one does not."""
        return (*range(len(self.model.depths) - 2, -1, -1), 0)

    @property
    def cell(self) -> tuple[int, int]:
        return self.model.stride

    @property
    def tap_shapes(self) -> tuple[tuple[int, int], ...]:
        last = len(self.model.depths) - 1
        widths = (self.model.stage_width(min(stage + 1, last)) for stage in range(last + 1))
        return tuple((self.seen * 4**n, width) for n, width in zip(self.doublings, widths, strict=True))

    def width(self, tap: int) -> int:  # of a tap's decoder
        return self.decoder_width if tap else self.decoder_width // 2

    @property
    def decoder_stack(self) -> StackConfig:
        c = self.model
        sizes = (self.decoder_depth, self.decoder_heads, c.mlp_ratio)
        return StackConfig(*sizes, remat=c.remat, dtype=c.dtype, layer_norm_eps=c.layer_norm_eps)

    def modules(self) -> tuple[Swin, TapNorms]:
        c = self.model
        encoder = Swin(c, final_norm=False, start=INITS["mae"], listed=self.places == "listed")
        return encoder, TapNorms(c.dtype, c.layer_norm_eps)

    def decoders(self) -> dict[str, MaeDecoder]:
        sizes = {
            tap: (self.width(tap), self.decoder_stack, self.tap_outputs(tap)) for tap in range(len(self.doublings))
        }
        return {f"decoder_{tap}": MaeDecoder(*sizes[tap], prefix=0) for tap in sizes}

    def mask(self, key, batch, frozen=None) -> Mask:
        return shared_mask(key, batch, self.grid, self.hidden, self.mask_group)

    def tap_mask(self, mask, tap):
        return refined(mask, 2 ** self.doublings[tap])

    def shown(self, draws):
        visible = draws["mask"].visible
        return {"visible": visible if self.mask_group else visible[:1], "noise": draws["drop_path"]}

    def latents(self, params, images, **shown):
        encoder, norms = self.modules()
        outputs: Any = encoder.apply({"params": params["encoder"]}, images, layers="stages", **shown)[1]
        return norms.apply({"params": params["norms"]}, outputs)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return self.whole(params, images, swin_features(self.modules()[0], params["encoder"], images, layers))

    def param_groups(self) -> ParamGroups:
        return dataclasses.replace(swin_groups(self.model.depths), no_decay=(r"relative_bias/table$", "mask_token$"))

    def flops(self) -> float:
        total, stack = visible_swin_flops(self.model, self.seen), self.decoder_stack
        for tap, (tokens, width) in enumerate(self.tap_shapes):
            all_tokens = math.prod(self.grid) * 4 ** self.doublings[tap]
            total += mae_decoder_flops(tokens, all_tokens, width, self.width(tap), stack, self.tap_outputs(tap), 0)
        return 3 * total
