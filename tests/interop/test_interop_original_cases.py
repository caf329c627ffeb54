"""The authors' weights of the reference cases, in files as the authors write them: imported, and exported again."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original_files import assert_same, original, read_back, shapes, torch_file, training_file

from mim_jax.interop.case import load_case
from mim_jax.interop.exporting import export_run
from mim_jax.interop.format import Format
from mim_jax.interop.imported import config_of_method
from mim_jax.interop.importing import import_run
from mim_jax.interop.original import beit, cae, mae
from mim_jax.interop.source import read_source
from mim_jax.methods.base import Variables
from mim_jax.methods.finetune import Finetune
from mim_jax.training.runs import load_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")

COMMANDS = ("beit/shared_rel", "ibot/model")  # the others go through their formats alone
PRETRAINING = (
    *COMMANDS,
    "mae/pretrain_norm_pix",
    "simmim/swin",
    "simmim/swinv2_norm_target",
    "simmim/vit_shared_rel",
    "beit/abs_pos",
    "cae/pretrain",
    "cae/pretrain_projection_a",
    "maskfeat/pretrain_p16",
    "maskalign/attention_linear_whiten",
    "beitv2/mim_cls_shared_head",
    "dbot/beit_branch",
    "mff/three_taps",
    "lut/bn_relu_head",
    "msn/step_bn_head",
    "ibot/model_no_local",
    "ijepa/pretrain",
    "spark/resnet",
    "spark/convnext",
    "convmae/norm_pix_64px",
    "croco/v1_cosine",
    "croco/v2_rope",
)


def subject(case):
    """The method of a case, and its weights as that method's variables."""
    module = importlib.import_module(f"mim_jax.interop.original.{case.method}")
    made = (module.subject if case.method == "spark" else module.pretraining)(case)
    found = made.variables(case, made.inputs(case.inputs)[0])
    return made.method, Variables(params=found.params, extra=found.extra)


def flattened(content, prefix=""):
    """Nested arrays by names joined by dots."""
    if not isinstance(content, dict):
        return {prefix.removesuffix("."): content}
    return {k: v for key, value in content.items() for k, v in flattened(value, f"{prefix}{key}.").items()}


def assert_their_arrays(form: Format, method, found, case) -> None:
    """Every array of a case: bit by bit, and to rounding where it is a table that both sides compute."""
    assert found.keys() == case.weights.keys()
    tables = form.layout(method, ()).tables
    for name, array in case.weights.items():
        assert found[name].dtype == array.dtype, name
        if name in tables and array.dtype == np.float32:
            np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_there_and_back(shared, tmp_path, name):
    case = load_case(shared / "goldens" / name)
    form = original(case.method, "all")
    method, expected = subject(case)
    nested = form.nest(dict(case.weights))
    file = training_file(tmp_path / "checkpoint.pth", nested)
    if name in COMMANDS:
        done = import_run(
            file, tmp_path / "run", library="original", method=case.method, config=config_of_method(method)
        )
        assert (done.form.name, done.form.part) == (case.method, "all")
        run = load_run(tmp_path / "run")
        assert_same(Variables(run.variables.params, run.variables.extra), expected)
        assert run.method == method
        export_run(tmp_path / "run", tmp_path / "theirs", to="original")
        back = tmp_path / "theirs" / "checkpoint.pth"
    else:
        source = read_source(file)
        assert form.accepts(source)
        assert_same(form.read(method, source, shapes(method)), expected)
        back = torch_file(tmp_path / "back.pth", form.nest(form.write(method, expected)))
    content = read_back(back)
    assert flattened(content).keys() == flattened(nested).keys()
    assert_their_arrays(form, method, form.state(read_source(back)), case)
    assert not form.unheld(method)


FINETUNING = {
    "mae/finetune_mean_pool": lambda case: mae.classifier(case, 10)[1],
    "mae/finetune_cls": lambda case: mae.classifier(case, 10)[1],
    "beit/finetune_mean_pool": lambda case: beit.vit_config(case, **beit.beit_settings(case)),
    "cae/finetune": lambda case: cae.settings(case, relative_bias="per_block"),
}


@pytest.mark.parametrize("name", FINETUNING)
def test_classifier_there_and_back(shared, tmp_path, name):
    case = load_case(shared / "goldens" / name)
    mean = case.config["global_pool" if case.method == "mae" else "mean_pooling"]
    # What the file shows (pooling, classes, switches of fine-tuning) need not be in the config.
    model = FINETUNING[name](case)
    method = Finetune(model, classes=10, pooling="mean" if mean else "cls")
    plain = Finetune(type(model)(**{**vars(model), "relative_bias": "none"}))
    file = training_file(tmp_path / "checkpoint.pth", {"model": case.weights})
    import_run(file, tmp_path / "run", library="original", method="finetune", config=config_of_method(plain))
    run = load_run(tmp_path / "run")
    assert run.method.pooling == method.pooling and run.method.model.relative_bias == model.relative_bias
    with jax.default_matmul_precision("highest"):
        logits = run.method.classify(run.variables.params, jnp.asarray(case.inputs["images"])).logits
    np.testing.assert_allclose(logits, case.outputs["logits"], atol=case.strict * abs(case.outputs["logits"]).max())
    exported = export_run(tmp_path / "run", tmp_path / "theirs", to="original")
    assert (exported.form, exported.part) == (case.method, "classifier")
    found = read_back(tmp_path / "theirs" / "checkpoint.pth")["model"]
    assert_their_arrays(original(case.method, "classifier"), run.method, found, case)
