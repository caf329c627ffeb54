"""Runs in the layouts of the original authors and back, and what is refused."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest
from conversion import VIT, round_trip, tiny_run
from original_files import assert_same, noise, original, shapes, torch_file, training_file

from mim_jax.errors import ConfigError, DataError, VerifyError
from mim_jax.interop.format import formats
from mim_jax.interop.imported import config_of_method
from mim_jax.interop.importing import import_run
from mim_jax.interop.source import read_source
from mim_jax.methods.attmask import AttMask
from mim_jax.methods.beit import BEiT
from mim_jax.methods.cae import CAE
from mim_jax.methods.cae_v2 import CAEv2
from mim_jax.methods.colormae import ColorMAE
from mim_jax.methods.convmae import ConvMAE
from mim_jax.methods.croco import CroCo
from mim_jax.methods.dmae import DMAE
from mim_jax.methods.dmjd import DMJD
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.hpm import HPM
from mim_jax.methods.ibot import IBOT
from mim_jax.methods.ijepa import IJepa
from mim_jax.methods.lut import LUT
from mim_jax.methods.mae import MAE
from mim_jax.methods.maskfeat import MaskFeat
from mim_jax.methods.mff import MFF
from mim_jax.methods.msn import MSN
from mim_jax.methods.multimae import MultiMAE
from mim_jax.methods.simmim import SimMIM
from mim_jax.methods.spark import SparK

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")

BEIT = dict(positions="none", qkv_bias="qv", relative_bias="per_block", layer_scale=0.1)
CAE_TUNED = dict(positions="sincos_cae", qkv_bias="qv", layer_scale=0.1)
SWIN = dict(patch_size=2, depths=(2, 2), heads=(1, 2), window_size=2, width=16)
STAGES = dict(width=(4, 4, 8, 8), depth=(1, 2, 1, 1), stem_width=4, stem_stride=4)
CONV = dict(resnet=dict(STAGES, block="bottleneck"), convnext=dict(STAGES, layer_scale=0.1))


def finetune(classes: int = 5, pooling: str = "mean", **model) -> Finetune:
    sizes = dict(image_size=(16, 16), channels=3) | (VIT if "arch" not in model else {})
    return Finetune.from_config(sizes | model, dict(classes=classes, pooling=pooling))


def spark(arch: str = "resnet", size: tuple[int, int] = (64, 64)) -> SparK:
    return SparK.from_config(dict(image_size=size, arch=arch, **CONV[arch]), dict(decoder_width=32))


METHODS = {
    "mae": (MAE.tiny(), ("all", "encoder")),
    "mae, two depths": (MAE.tiny(depth=3, mlp_ratio=2.0), ("all",)),
    "simmim vit": (SimMIM.tiny(), ("all", "encoder")),
    "simmim swin": (SimMIM.tiny(arch="swin", positions="learned"), ("all", "encoder")),
    "simmim swinv2": (SimMIM.tiny(arch="swinv2"), ("all", "encoder")),
    "beit": (BEiT.tiny(), ("all", "encoder")),
    "beit, absolute positions": (
        BEiT.tiny(positions="learned", relative_bias="none", layer_scale=0.0),
        ("all", "encoder"),
    ),
    "cae": (CAE.tiny(), ("all", "encoder")),
    "cae on a rectangle": (CAE.tiny((16, 24), positions="sincos_cae"), ("all", "encoder")),
    "cae_v2": (CAEv2.tiny(), ("all", "encoder")),
    "maskfeat": (MaskFeat.from_config(VIT | dict(patch_size=8), {}), ("all",)),
    "maskfeat on pixels": (MaskFeat.from_config(VIT, dict(target="norm_pix", hog_cell=2)), ("all",)),
    "colormae": (ColorMAE.tiny(positions="sincos_row"), ("all",)),
    "mff": (MFF.tiny(), ("all",)),
    "hpm": (HPM.tiny(), ("all",)),
    "lut": (LUT.tiny(), ("all",)),
    "lut without batch norm": (LUT.from_config(VIT, dict(head_hidden=8, head_norm="none", mask_ratio=0.5)), ("all",)),
    "dmae": (DMAE.tiny(), ("all",)),
    "ibot": (IBOT.tiny(), ("all", "encoder")),
    "ibot, masks by attention": (AttMask.tiny(), ("all", "encoder")),
    "ijepa": (IJepa.tiny(), ("all", "encoder")),
    "convmae": (ConvMAE.tiny((32, 48), strides=(4, 2, 2)), ("all",)),
    "dmjd": (DMJD.tiny((64, 64), strides=(4, 2, 2)), ("all",)),
    "croco": (CroCo.tiny(), ("all",)),
    "croco v2": (CroCo.tiny(positions="none", rope_base=100.0), ("all",)),
    "msn": (MSN.tiny(), ("all",)),
    "multimae": (MultiMAE.tiny(), ("all",)),
    "spark resnet": (spark(), ("all", "encoder")),
    "spark convnext": (spark("convnext"), ("all", "encoder")),
    "mae, fine-tuned": (finetune(), ("classifier",)),
    "mae, fine-tuned, class token": (finetune(pooling="cls"), ("classifier",)),
    "beit, fine-tuned": (finetune(**BEIT), ("classifier",)),
    "cae, fine-tuned": (finetune(**CAE_TUNED, relative_bias="per_block"), ("classifier",)),
    "cae, fine-tuned without tables": (finetune(pooling="cls", **CAE_TUNED), ("classifier",)),
    "simmim swin, fine-tuned": (finetune(arch="swin", **SWIN), ("classifier",)),
    "simmim swinv2, fine-tuned": (finetune(arch="swinv2", **SWIN), ("classifier",)),
    "spark resnet, fine-tuned": (finetune(arch="resnet", image_size=(32, 32), **CONV["resnet"]), ("classifier",)),
    "spark basic, fine-tuned": (
        finetune(arch="resnet", image_size=(32, 32), **STAGES | dict(block="basic", depth=(1, 1, 1, 1))),
        ("classifier",),
    ),
    "spark convnext, fine-tuned": (finetune(arch="convnext", image_size=(32, 32), **CONV["convnext"]), ("classifier",)),
}


@pytest.mark.parametrize("name, part", [(name, part) for name, (_, parts) in METHODS.items() for part in parts])
def test_every_leaf_comes_back(tmp_path, name, part):
    method = METHODS[name][0]
    like = shapes(method)
    variables = noise(like)
    serving = [f for f in formats("original") if f.part == part and f.serves(method.name) and not f.unheld(method)]
    assert serving[0].name == name.replace("_v2", "").split()[0].strip(",")
    form = serving[0]
    file = training_file(tmp_path / "checkpoint.pth", form.nest(form.write(method, variables)))
    source = read_source(file)
    assert form.accepts(source)
    # Of the other formats that could take the file, none would be taken before this one.
    first = next(f for f in formats("original") if f.part == part and f.serves(method.name) and f.accepts(source))
    assert first is form
    found = form.read(method, source, like)
    expected = form.part_of(method, variables)
    assert_same(found, expected)


@pytest.mark.parametrize("name, part", [("mae", "encoder"), ("spark basic, fine-tuned", "classifier")])
def test_commands(tmp_path, name, part):
    method = METHODS[name][0]
    config = config_of_method(method)
    run = tiny_run(tmp_path / "run", method.name, config.model.to_dict(), config.method.to_dict())
    exported, imported = round_trip(tmp_path, run, "original", method.name, part=part, config=config)
    assert exported.part == imported.form.part == part


@pytest.mark.parametrize(
    "name, part", [(name, "encoder") for name in ("mae", "ibot", "ijepa", "spark resnet", "beit", "simmim swin", "cae")]
)
def test_the_encoder_of_a_whole_checkpoint(tmp_path, name, part):
    method, variables = METHODS[name][0], noise(shapes(METHODS[name][0]))
    whole, alone = original(name.split()[0], "all"), original(name.split()[0], part)
    source = read_source(training_file(tmp_path / "checkpoint.pth", whole.nest(whole.write(method, variables))))
    assert alone.accepts(source)
    # That which the authors judge: the teacher, the target encoder.
    assert_same(alone.read(method, source, shapes(method)), alone.part_of(method, variables))


def test_moving_averages_beside_the_network_are_left_out(tmp_path):
    method = METHODS["beit, fine-tuned"][0]
    form = original("beit", "classifier")
    arrays = form.write(method, noise(shapes(method)))
    average = {name: array + 1 for name, array in arrays.items()}
    source = read_source(torch_file(tmp_path / "checkpoint.pth", {"model": arrays, "model_ema": average}))
    assert_same(form.state(source), arrays)


def test_a_config_of_yacs_beside_the_weights_is_read_as_a_dictionary(tmp_path, monkeypatch):
    """SimMIM stores its config: a dictionary of another class, of a library that need not be here."""
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module = types.ModuleType("yacs.config")
    monkeypatch.setattr(module, "CfgNode", node, raising=False)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patched.setitem(sys.modules, "yacs.config", module)
        config = node(MODEL=node(TYPE="swin"))
        config.__dict__["__immutable__"] = True
        arrays = {"layers.0.weight": np.ones(2, np.float32)}
        file = torch_file(tmp_path / "checkpoint.pyth", {"model": arrays}, config=config)
    assert_same(read_source(file).state(), arrays)


def mae_file(folder, **changed):
    """A whole checkpoint of a tiny MAE, some arrays changed by functions."""
    method = METHODS["mae"][0]
    arrays = original("mae", "all").write(method, noise(shapes(method)))
    arrays |= {name: change(arrays[name]) for name, change in changed.items()}
    return training_file(folder / "checkpoint.pth", {"model": arrays})


def with_nan(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 3, np.nan, array)


BROKEN = {  # what happened to an array, and the sentence
    "decoder_pred.bias": (with_nan, "'decoder_pred.bias' holds values that are not finite"),
    "norm.weight": (lambda a: a[:8], r"'norm.weight' gives shape \(8,\) for 'params/encoder/norm/scale', .* \(16,\)"),
    "pos_embed": (lambda a: a[:, ::-1], "'pos_embed' of shape .* is not the fixed table"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_names_its_array(tmp_path, name):
    change, sentence = BROKEN[name]
    source, method = read_source(mae_file(tmp_path, **{name: change})), METHODS["mae"][0]
    with pytest.raises(VerifyError, match=sentence):
        original("mae", "all").read(method, source, shapes(method))


def test_a_broken_file_leaves_nothing(tmp_path):
    file = mae_file(tmp_path, **{"decoder_pred.bias": with_nan})
    config = config_of_method(METHODS["mae"][0])
    with pytest.raises(
        DataError, match=r"checkpoint.pth does not hold a model of this config as mae: 'decoder_pred.bias'"
    ):
        import_run(file, tmp_path / "run", library="original", method="mae", config=config)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_config_is_needed_and_must_be_of_these_weights(tmp_path):
    file = mae_file(tmp_path)
    with pytest.raises(
        ConfigError, match=r"give --config .* configs/mae/imagenet1k.py .*model.width 16.*decoder_depth 1"
    ):
        import_run(file, tmp_path / "run", library="original", method="mae")
    other = config_of_method(MAE.tiny(width=32, depth=3))
    with pytest.raises(ConfigError, match=r"show model.width 16, where the config has 32; model.depth 2, where .* 3"):
        import_run(file, tmp_path / "run", library="original", method="mae", config=other)
    beit = METHODS["beit"][0]
    arrays = original("beit", "all").write(beit, noise(shapes(beit)))
    file = training_file(tmp_path / "beit.pth", {"model": arrays})
    with pytest.raises(ConfigError, match=r"show model.heads 2, where the config has 4"):
        import_run(
            file, tmp_path / "run", library="original", method="beit", config=config_of_method(BEiT.tiny(heads=4))
        )


def test_a_file_of_another_system_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"mae \(all\) or mae \(encoder\).*, which does not hold anything of beit"):
        import_run(mae_file(tmp_path), tmp_path / "run", library="original", method="beit")
    with pytest.raises(DataError, match="is in no format of original that is known"):
        file = torch_file(tmp_path / "other.pth", {"fc1.weight": np.ones((2, 2))})
        import_run(file, tmp_path / "run", library="original", method="mae")


REFUSED = {
    "its own norm": (MAE.tiny(layer_norm_eps=1e-5), "all", "layer_norm_eps 1e-06, not 1e-05"),
    "learned positions": (MAE.tiny(positions="learned"), "all", "model.positions 'sincos', not 'learned'"),
    "what is predicted": (MAE.from_config(VIT, dict(target="pca", pca_components=4)), "all", "method.target"),
    "another regressor": (
        CAE.from_config(
            VIT,
            dict(feed_queries=False, decoder_width=16, decoder_heads=2, min_block=1)
            | dict(tokenizer=dict(kind="vq", image_size=(16, 16), stride=4)),
        ),
        "all",
        "feed_queries True, not False",
    ),
    "cells": (MaskFeat.tiny(), "all", "hog_cell 8, not 2"),
    "the judged encoder": (
        IJepa.from_config(VIT, dict(evaluate="context", min_keep=1, target_scale=(0.25, 0.3))),
        "encoder",
        "evaluate",
    ),
    "noisy positions": (
        IJepa.from_config(VIT, dict(stochastic_positions=0.25, min_keep=1, target_scale=(0.25, 0.3))),
        "all",
        "stochastic_positions",
    ),
    "two stages": (SparK.tiny(), "all", "model.stages 4, not 2"),
    "no square": (spark(size=(64, 96)), "all", r"image_size \(64, 64\), not \(64, 96\)"),
    "a class token": (finetune(cls_token=False), "classifier", "cls_token True, not False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_authors_cannot_hold_is_refused_with_the_reason(name):
    method, part, reason = REFUSED[name]
    serving = [form for form in formats("original") if form.part == part and form.serves(method.name)]
    reasons = [form.unheld(method) for form in serving]
    assert all(reasons)
    assert re.search(reason, " ".join(reasons))
