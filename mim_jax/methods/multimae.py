"""MultiMAE: Multi-modal Multi-task Masked Autoencoders (Bachmann, Mizrahi, Atanov, Zamir. ECCV 2022).

Hidden: all but a fixed number of the tokens of several modalities of one image, divided among them at random.
Predicted: every output modality where it is hidden. By whom: one ViT of all visible tokens, and for each output a small
decoder whose queries look at them. Error: per modality, mean square, L1 or cross-entropy, image by image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mim_jax.errors import ConfigError
from mim_jax.masking.multimodal import MultimodalMask, check_concentration, check_tokens, multimodal_mask
from mim_jax.methods import multimodal
from mim_jax.methods.base import Batch, Features, Method, Output, ParamGroups, Pictures, Progress, Variables, ViewShape
from mim_jax.methods.building import section, start
from mim_jax.methods.transformers import vit_config, vit_groups
from mim_jax.models import multimae
from mim_jax.models.modalities import PSEUDO, Named, Task, check_names, modalities_of, tasks_of
from mim_jax.models.vit_config import VitConfig, check_heads
from mim_jax.nn.drop_path import drop_path_noise

FAMILY: dict[str, Any] = dict(cls_token=False, positions="sincos_row", init="multimae")


@dataclasses.dataclass(frozen=True)
class MultiMAE(Method):
    """Several modalities; those of the default are made from the image, in the shapes of the paper's."""

    name: ClassVar[str] = "multimae"
    model: VitConfig = VitConfig(**FAMILY)
    modalities: Named = PSEUDO
    inputs: tuple[str, ...] = ("rgb", "edges", "colours")
    outputs: tuple[str, ...] = ("rgb", "edges", "colours", "norm_rgb")
    visible_tokens: int = 98
    # Of the Dirichlet distribution that divides the visible tokens; the smaller, the less even are the shares.
    concentration: int | float | tuple[int | float, ...] = 1.0
    subsets: bool = False  # first choose some of the modalities, then divide among these
    global_tokens: int = 1
    decoder_width: int = 256
    decoder_depth: int = 2  # blocks behind the cross-attention
    decoder_heads: int = 8
    own_tokens: bool = True  # visible tokens of a modality are queries of its decoder
    uncertainty: bool = False  # weigh the losses by learned variances

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> MultiMAE:
        vit, values = vit_config(model, FAMILY), section(cls, method, "method")
        if isinstance(values.get("modalities"), Mapping):
            values["modalities"] = modalities_of(values["modalities"], vit.channels)
        made = cls(model=vit, **values)
        made.check()
        return made

    def check(self) -> None:
        """Refuses impossible values; raises ConfigError, naming the key."""
        check_heads(self.decoder_width, self.decoder_heads, "method", "decoder_")
        if self.model.cls_token or self.model.positions != "sincos_row":
            raise ConfigError("multimae has model.cls_token False and model.positions 'sincos_row'; leave them out")
        check_names(dict(self.modalities), self.inputs, self.outputs, self.model.patch_size)
        check_tokens(self.visible_tokens, len(self.inputs) * self.model.tokens, self.global_tokens)
        check_concentration(self.concentration, len(self.inputs))

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> MultiMAE:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        labels = dict(source="colours", stride=2, classes=9, embedding=4, loss="cross_entropy")
        known = dict(rgb={}, edges=dict(source="edges", loss="l1"), colours=labels)
        own = dict(modalities=known, visible_tokens=7, decoder_width=8, decoder_depth=1, decoder_heads=2)
        return cls.from_config(vit, own)

    def views(self) -> dict[str, ViewShape]:
        return super().views() | multimodal.given_maps(self.modalities, self.model.image_size)

    @property
    def tasks(self) -> dict[str, Task]:
        return tasks_of(dict(self.modalities), self.inputs, self.outputs)

    def modules(self) -> tuple[multimae.MultimodalEncoder, dict[str, multimae.MultimodalDecoder]]:
        """The encoder, and a decoder for each output."""
        known, depth, heads = dict(self.modalities), self.decoder_depth, self.decoder_heads
        stack = dataclasses.replace(self.model.stack, depth=depth, heads=heads, drop_path_rate=0.0)
        shared = dict(width=self.decoder_width, stack=stack, inputs=self.inputs, own_tokens=self.own_tokens)
        shared |= dict(global_tokens=self.global_tokens)
        encoder = multimae.MultimodalEncoder(self.model, tuple((n, known[n]) for n in self.inputs), self.global_tokens)
        return encoder, multimae.decoders_of(self.tasks, self.model.patch_size, **shared)

    def values(self, batch: Batch) -> dict[str, Array]:
        """Every modality of a batch."""
        return {name: modality.of(batch, name, self.model.patch_size) for name, modality in self.modalities}

    def init(self, key, batch) -> Variables:
        encoder, decoders = self.modules()
        mask, values = self.mask(jax.random.key(0), 1), {n: v[:1] for n, v in self.values(batch).items()}
        tokens = jnp.zeros((1, self.visible_tokens + self.global_tokens, self.model.width))
        table, keys = multimae.decoder_positions(self.model, self.decoder_width), jax.random.split(key)
        params = start(keys[0], encoder=(encoder, values))
        params["decoders"] = start(keys[1], **{n: (module, tokens, mask, table) for n, module in decoders.items()})
        if self.uncertainty:
            params["balance"] = {"log_variances": jnp.zeros(len(self.outputs))}
        return Variables(params=params)

    def mask(self, key, batch: int) -> MultimodalMask:
        tokens = self.model.tokens, self.visible_tokens
        return multimodal_mask(key, batch, len(self.inputs), *tokens, self.concentration, self.subsets)

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, path_key) = len(batch["image"]), jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": self.mask(mask_key, size), "drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        (encoder, decoders), mask, values = self.modules(), draws["mask"], self.values(batch)
        tokens, _ = encoder.apply({"params": params["encoder"]}, values, mask, draws["drop_path"])
        hidden, table = mask.hidden(len(self.inputs)), multimae.decoder_positions(self.model, self.decoder_width)
        found = {n: d.apply({"params": params["decoders"][n]}, tokens, mask, table) for n, d in decoders.items()}
        losses = multimodal.task_losses(self.tasks, found, values, hidden, self.model.patch_size)
        terms = multimodal.weighed(losses, params["balance"]["log_variances"]) if self.uncertainty else losses
        trace = multimodal.trace_of(self.model.grid, hidden, tokens, found, values, losses)
        return sum(terms.values()), Output(terms, weight=jnp.float32(len(tokens)), trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return multimodal.image_features(self.modules()[0], params["encoder"], self.image_input, images, bool(layers))

    @property
    def image_input(self) -> str:
        return next(n for n, modality in self.modalities if modality.source == "image" and n in self.inputs)

    @property
    def image_model(self) -> VitConfig:
        return multimodal.image_model(self.model, self.global_tokens)

    def image_encoder(self, params, extra=None):
        return multimodal.image_params(params["encoder"], self.image_input)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        trace = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        return multimodal.multimodal_pictures(batch["image"], trace, self.tasks, self.model.patch_size)

    def param_groups(self) -> ParamGroups:
        return dataclasses.replace(vit_groups(self.model.depth), no_decay=(r"/global_tokens$", r"/mask_token$"))

    def flops(self) -> float:
        return 3 * multimae.multimae_flops(*self.modules(), self.visible_tokens)
