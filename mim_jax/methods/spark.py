"""SparK: Sparse and Hierarchical Masked Modeling (Tian, Jiang, Diao, Lin, Wang, Yuan. ICLR 2023).

Hidden: 60 % of the cells, at random; a cell is one position of the encoder's last map (32 x 32 pixels). Predicted:
their pixels, standardised per cell. By whom: a ConvNet that computes at visible places only, as if it were sparse, and
a light U-Net that takes in all its scales with mask tokens in the holes. Error: mean square over the hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.random import random_mask, visible_count
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import section
from mim_jax.methods.pictures import patch_pictures
from mim_jax.models.conv_config import ConvConfig
from mim_jax.models.convnets import convnet, convnet_flops, stem_flops
from mim_jax.models.spark_decoder import Densify, SparkDecoder, spark_decoder_flops, steps
from mim_jax.nn.ema import ema_update
from mim_jax.nn.patches import patchify
from mim_jax.nn.sparse import MOMENTUM
from mim_jax.targets.pixels import standardize, unstandardize

NORMS = ("auto", "bn", "ln", "none")


@dataclasses.dataclass(frozen=True)
class SparK(Method):
    """Masked modelling for ConvNets; the defaults are the paper's.

    `extra` holds the running statistics of all batch norms; `update` moves them by the batch's, which `carry` brings.
    """

    name: ClassVar[str] = "spark"
    batch_statistics: ClassVar[bool] = True
    encoder_statistics: ClassVar[str] = "encoder"
    model: ConvConfig = ConvConfig()
    mask_ratio: float = 0.6
    decoder_width: int = 768  # at the smallest map; halved by every block
    densify_norm: str = "auto"  # bn | ln | none | auto: bn for a ResNet, ln for a ConvNeXt

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> SparK:
        encoder = ConvConfig.from_section(section(ConvConfig, model, "model"))
        spark = cls(model=encoder, **section(cls, method, "method"))
        visible_count(encoder.tokens, spark.mask_ratio, to_int=round)
        check_choices(spark, "method", densify_norm=NORMS)
        if encoder.stride < 2:
            raise ConfigError("model.stem_stride 1 with one stage leaves nothing to upsample; take 2, or two stages")
        if spark.decoder_width < encoder.stride:
            halved = f"method.decoder_width {spark.decoder_width} is halved {steps(encoder.stride)} times"
            raise ConfigError(f"{halved} on the way to the pixels, so it must be at least {encoder.stride}")
        return spark

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> SparK:
        small = dict(width=(4, 8), depth=(1, 1), stem_width=4, stem_stride=2, zero_init=False, layer_scale=0.1)
        if model.get("arch", "resnet") == "resnet":
            small["block"] = "basic"
        return cls.from_config(small | dict(image_size=image_size, channels=channels) | model, dict(decoder_width=8))

    def modules(self) -> dict[str, Any]:
        """The trained modules in the order in which they run."""
        model, norm = self.model, self.densify_norm
        norm = {"resnet": "bn", "convnext": "ln"}[model.arch] if norm == "auto" else norm
        return {
            "encoder": convnet(model),
            "densify": Densify(self.decoder_width, norm, dtype=model.dtype),
            "decoder": SparkDecoder(self.decoder_width, model.cell, model.channels, dtype=model.dtype),
        }

    def init(self, key, batch) -> Variables:
        params, extra = {}, {}
        active = jnp.ones((1, *self.model.grid), bool)
        passed: Any = batch["image"][:1]
        for number, (name, module) in enumerate(self.modules().items()):
            inputs = (passed,) if name == "decoder" else (passed, active)
            passed, made = module.init_with_output(jax.random.fold_in(key, number), *inputs)
            passed = self.scales(passed) if name == "encoder" else passed
            params[name] = made["params"]
            if "batch_stats" in made:
                extra[name] = made["batch_stats"]
        return Variables(params=params, extra=extra)

    def scales(self, maps: tuple) -> tuple:
        """The maps that the decoder takes in, the smallest first; one at the image's own resolution has no place."""
        return maps[::-1][: steps(self.model.stride)]

    def draw(self, params, extra, frozen, batch, key, progress):
        size, model = batch["image"].shape[0], self.model
        mask_key, path_key = jax.random.split(key)
        noise = jax.random.uniform(path_key, (size, sum(model.depth))) if model.drop_path_rate > 0 else None
        return {"mask": random_mask(mask_key, size, model.grid, self.mask_ratio, round), "drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        images, mask, modules, statistics = batch["image"], draws["mask"], self.modules(), {}
        active = ~mask.hidden.reshape(-1, *mask.grid)

        def run(name, *inputs):
            variables = {"params": params[name], "batch_stats": extra.get(name, {})}
            out, moved = modules[name].apply(variables, *inputs, mutable=["batch_stats"])
            if name in extra:
                statistics[name] = moved["batch_stats"]
            return out

        maps = run("encoder", images, active, draws["drop_path"])
        dense = run("densify", self.scales(maps), active)
        prediction = run("decoder", dense)
        target = standardize(patchify(images, self.model.cell))
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        latent = maps[-1].reshape(len(images), -1, maps[-1].shape[-1])
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        trace |= dict(features=maps, to_decoder=dense)
        return loss, Output({"reconstruction": loss}, weight=weight, carry=statistics, trace=trace)

    def update(self, extra, params, output, progress):
        return ema_update(extra, output.carry, 1.0 - MOMENTUM)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """Batch norms use the running statistics in `extra`; without any, those of the images given."""
        statistics = (extra or {}).get("encoder")
        variables = {"params": params["encoder"], "batch_stats": statistics or {}}
        maps, _ = convnet(self.model, running=bool(statistics)).apply(variables, images, mutable=["batch_stats"])
        maps = tuple(x.reshape(images.shape[0], -1, x.shape[-1]).astype(jnp.float32) for x in maps)
        grid = (images.shape[1] // self.model.stride, images.shape[2] // self.model.stride)
        return Features(None, maps[-1], maps[-1].mean(1), maps if layers else (), grid)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, cell = batch["image"], self.model.cell
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        prediction = unstandardize(output.trace["pred"], patchify(images, cell))
        return patch_pictures(images, prediction, output.trace["mask"].hidden, cell, true_patch_statistics=True)

    def param_groups(self) -> ParamGroups:
        """Mask tokens and layer scales are vectors, so they take no decay (the original lists them by name)."""
        depth, layers = self.model.layers()
        return ParamGroups(depth=depth, layers=tuple((f"encoder/{pattern}", number) for pattern, number in layers))

    def flops(self) -> float:
        model, widths = self.model, self.scales(self.model.outputs)
        decoder = spark_decoder_flops(model.grid, widths, self.decoder_width, steps(model.stride), model.channels)
        return 3 * (convnet_flops(model) + decoder) - stem_flops(model)
