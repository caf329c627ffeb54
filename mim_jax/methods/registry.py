"""The systems, by name. Adding one is one line here."""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Method

METHODS = {
    "attmask": "mim_jax.methods.attmask:AttMask",
    "beit": "mim_jax.methods.beit:BEiT",
    "beitv2": "mim_jax.methods.beitv2:BEiTv2",
    "cae": "mim_jax.methods.cae:CAE",
    "cae_v2": "mim_jax.methods.cae_v2:CAEv2",
    "convmae": "mim_jax.methods.convmae:ConvMAE",
    "croco": "mim_jax.methods.croco:CroCo",
    "dmjd": "mim_jax.methods.dmjd:DMJD",
    "colormae": "mim_jax.methods.colormae:ColorMAE",
    "dbot": "mim_jax.methods.dbot:DBOT",
    "dbot_beit": "mim_jax.methods.dbot_beit:DBOTBeit",
    "eva02": "mim_jax.methods.eva02:EVA02",
    "dmae": "mim_jax.methods.dmae:DMAE",
    "finetune": "mim_jax.methods.finetune:Finetune",
    "hpm": "mim_jax.methods.hpm:HPM",
    "ibot": "mim_jax.methods.ibot:IBOT",
    "ijepa": "mim_jax.methods.ijepa:IJepa",
    "localmim": "mim_jax.methods.localmim:LocalMIM",
    "lut": "mim_jax.methods.lut:LUT",
    "mae": "mim_jax.methods.mae:MAE",
    "maskalign": "mim_jax.methods.maskalign:MaskAlign",
    "maskfeat": "mim_jax.methods.maskfeat:MaskFeat",
    "mff": "mim_jax.methods.mff:MFF",
    "msn": "mim_jax.methods.msn:MSN",
    "multimae": "mim_jax.methods.multimae:MultiMAE",
    "simmim": "mim_jax.methods.simmim:SimMIM",
    "tokenizer": "mim_jax.methods.tokenizer:Tokenizer",
    "vqkd": "mim_jax.methods.vqkd:VQKD",
    "spark": "mim_jax.methods.spark:SparK",
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: no such method, with the nearest name.
    """
    if name not in METHODS:
        raise ConfigError(f"method.name '{name}' is not a method{nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(config: ConfigDict) -> Method:
    """The method of a run's config, checked.

    Raises:
        ConfigError: an unknown key or an impossible value in `model` or `method`.
    """
    method = config.method.to_dict()
    model = {**config.model.to_dict(), "precision": config.training.precision}
    return method_class(method.pop("name", "")).from_config(model, method)
