"""Every reference case of MAE passes; a damaged copy does not."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from mim_jax.errors import VerifyError
from mim_jax.interop.table import print_rows
from mim_jax.interop.verify import discover, verify, verify_paths

CASES = {  # and what no difference may reach: about four times what a CPU showed, far below the cases' tolerances
    "pretrain_norm_pix": 2e-6,
    "pretrain_raw_pix": 2e-6,
    "finetune_mean_pool": 2e-6,
    "finetune_cls": 3e-6,
    "linear_probe": 3e-5,
    "pos_resize_up": 3e-6,
    "train_steps": 1e-3,  # the key part of qkv biases moves by an arbitrary sign
    "lars": 1e-6,
    "lr_schedule.json": 3e-7,
    "param_groups.json": 1e-12,
}


@pytest.fixture(scope="module")
def goldens(shared):
    return shared / "goldens"


@pytest.fixture
def out():
    return Console(file=io.StringIO(), width=160, highlight=False)


def changed(folder, **arrays):
    """Writes arrays of outputs.npz anew; a value is a function of the old array."""
    outputs = dict(np.load(folder / "outputs.npz"))
    for name, change in arrays.items():
        outputs[name] = change(outputs.get(name))
    np.savez(folder / "outputs.npz", **outputs)


def with_config(folder, **values):
    content = json.loads((folder / "case.json").read_text())
    content["config"] |= values
    (folder / "case.json").write_text(json.dumps(content))


@pytest.fixture
def copy(goldens, tmp_path):
    def make(name):
        return shutil.copytree(goldens / "mae" / name, tmp_path / "mae" / name)

    return make


@pytest.fixture(scope="module")
def report(goldens):
    """The report of a case, run once."""
    return functools.cache(lambda name: verify(goldens / "mae" / name))


@pytest.mark.parametrize("name, measured", CASES.items())
def test_reference_case_passes(report, name, measured):
    failed = [(row.name, row.error, row.note) for row in report(name).rows if not row.ok]
    assert not failed and report(name).ok
    assert report(name).worst < measured


def test_no_case_is_left_out(goldens):
    assert {path.name for path in discover(goldens / "mae")} == set(CASES)


def test_evaluation_transform_passes(goldens, out):
    assert verify_paths([goldens / "eval_transform"], console=out), out.file.getvalue()


def scaled_entry(array, factor):
    array = array.copy()
    array.flat[7] *= factor
    return array


def test_one_changed_weight_fails(copy):
    folder = copy("pretrain_raw_pix")
    weights = load_file(folder / "weights.safetensors")
    weights["blocks.1.mlp.fc1.weight"] = scaled_entry(weights["blocks.1.mlp.fc1.weight"], 1.2)
    weights["pos_embed"] = weights["pos_embed"][..., ::-1].copy()  # compared, not used
    save_file(weights, folder / "weights.safetensors")
    failed = {row.name for row in verify(folder).rows if not row.ok}
    assert {"latent", "pred", "pos_embed (fixed table)"} <= failed
    assert not failed & {"mask", "target", "grad_names", "decoder_pos_embed (fixed table)"}


def test_two_swapped_weights_fail(copy):
    folder = copy("finetune_cls")
    weights = load_file(folder / "weights.safetensors")
    a, b = "blocks.0.attn.proj.weight", "blocks.1.attn.proj.weight"
    weights[a], weights[b] = weights[b], weights[a]
    save_file(weights, folder / "weights.safetensors")
    assert {"features", "logits", "grad_dot_weight"} <= {row.name for row in verify(folder).rows if not row.ok}


def test_changed_expectations_fail_one_by_one(copy):
    folder = copy("finetune_cls")
    changed(
        folder,
        logits=lambda a: scaled_entry(a, 1 + 1e-3),
        grad_norms=lambda a: scaled_entry(a, 1.01),
        grad_names=lambda a: np.where(a == "cls_token", "other_token", a),
        invented=lambda _: np.zeros(3),
    )
    failed = {row.name: row.note for row in verify(folder).rows if not row.ok}
    assert set(failed) == {"logits", "grad_names", "grad_norms", "grad_dot_weight", "invented"}
    assert failed["invented"] == "nothing computes this array"
    assert "not ours: other_token; not theirs: cls_token" in failed["grad_names"]


@pytest.mark.parametrize(
    "name, array, value",
    [("pos_resize_up", "pos_embed_resized", np.nan), ("lars", "w", 1e9)],
)
def test_a_foreign_number_in_the_expectation_fails(copy, name, array, value):
    folder = copy(name)
    changed(folder, **{array: lambda a: np.where(np.arange(a.size).reshape(a.shape) == 3, value, a)})
    assert [row.name for row in verify(folder).rows if not row.ok] == [array]


def test_an_expected_array_that_is_gone_fails(copy):
    folder = copy("lars")
    np.savez(folder / "outputs.npz", w=np.load(folder / "outputs.npz")["w"])
    assert [(row.name, row.ok) for row in verify(folder).rows] == [("w", True), ("b", False)]


def refusal(folder):
    with pytest.raises(VerifyError) as error:
        verify(folder)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_unknown_kind_and_method_name_what_exists(copy):
    folder = copy("lars")
    with_config(folder, kind="sgd")
    assert "mae has no cases of kind 'sgd' (it has finetune, lars, linear_probe" in refusal(folder)
    content = json.loads((folder / "case.json").read_text()) | {"method": "maek"}
    (folder / "case.json").write_text(json.dumps(content))
    assert "method 'maek' is not one that can be verified (known: analysis, " in refusal(folder)


def test_missing_settings_and_inputs_are_named(copy):
    folder = copy("pretrain_raw_pix")
    np.savez(folder / "inputs.npz", images=np.load(folder / "inputs.npz")["images"])
    assert "inputs.npz has no 'noise'; it has images" in refusal(folder)
    content = json.loads((folder / "case.json").read_text())
    del content["config"]["width"]
    (folder / "case.json").write_text(json.dumps(content))
    assert "case.json has no 'width'; it has kind, image_size" in refusal(folder)


def test_settings_that_the_arrays_contradict_are_refused(copy):
    folder = copy("pretrain_raw_pix")
    with_config(folder, width=32)
    assert "'cls_token' gives shape (1, 1, 64) for 'params/encoder/cls_token', which needs (1, 1, 3" in refusal(folder)
    with_config(folder, width=64, image_size=[32, 64])
    assert "images of (32, 32) pixels, but config.image_size (32, 64)" in refusal(folder)
    with_config(folder, image_size=32, drop_path=0.1)
    assert "drop_path 0.1 needs the draws" in refusal(folder)
    with_config(folder, drop_path=0.0, depth="three")
    assert "cannot be run as a case of kind 'pretrain' (Type" in refusal(folder)


def test_extra_missing_and_broken_weights_are_named(copy):
    folder = copy("pretrain_raw_pix")
    whole = load_file(folder / "weights.safetensors")
    save_file({**whole, "blocks.0.ls1.gamma": np.ones(64, np.float32)}, folder / "weights.safetensors")
    assert "nothing of ours takes the array 'blocks.0.ls1.gamma' of shape (64,)" in refusal(folder)
    save_file({k: v for k, v in whole.items() if k != "norm.bias"}, folder / "weights.safetensors")
    assert "the weights hold nothing for 'params/encoder/norm/bias'" in refusal(folder)
    save_file({**whole, "norm.bias": np.full(64, np.nan, np.float32)}, folder / "weights.safetensors")
    assert "'norm.bias' holds values that are not finite" in refusal(folder)
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])
    assert "weights.safetensors is not a sound safetensors file" in refusal(folder)
    (folder / "weights.safetensors").unlink()
    assert "weights.safetensors cannot be read" in refusal(folder)


def test_broken_files_are_refused_in_one_sentence(copy, tmp_path):
    folder = copy("lars")
    (folder / "outputs.npz").write_bytes(b"PK not a zip")
    assert "outputs.npz is not an npz file of plain arrays" in refusal(folder)
    np.savez(folder / "outputs.npz", w=np.array([{"pickled": 1}], dtype=object))
    assert "outputs.npz is not an npz file of plain arrays" in refusal(folder)
    (folder / "case.json").write_text("{")
    assert "case.json is not JSON" in refusal(folder)
    other = tmp_path / "notes.json"
    other.write_text('{"runs": [{"columns": ["step"]}]}')
    assert "is none of the reference files that can be verified" in refusal(other)


def test_one_broken_case_does_not_hide_the_others(copy, goldens, out, tmp_path):
    broken = copy("lars")
    (broken / "case.json").write_text("{}")
    assert not verify_paths([broken, goldens / "mae" / "pos_resize_up", tmp_path / "nowhere"], console=out)
    text = out.file.getvalue()
    assert "has no 'method', so it is no reference case" in text
    assert "nowhere does not exist" in text
    assert re.search(r"mae/pos_resize_up \(pos_resize\) +pass", text)


def test_a_changed_reference_file_fails(goldens, tmp_path, out):
    content = json.loads((goldens / "mae" / "param_groups.json").read_text())
    content["groups"]["blocks.3.norm1.bias"]["weight_decay"] = 0.05
    (tmp_path / "groups.json").write_text(json.dumps(content))  # known by its upstream repository
    assert not verify_paths([tmp_path / "groups.json"], console=out)
    assert "outside tolerance: fine-tuning: weight_decay" in out.file.getvalue()
    content = json.loads((goldens / "mae" / "lr_schedule.json").read_text())
    content["runs"][0]["rows"][10][1] *= 1 + 1e-5
    (tmp_path / "schedule.json").write_text(json.dumps(content))
    assert not verify_paths([tmp_path / "schedule.json"], console=out)


def test_details_list_every_parameter(report, out):
    shown = report("linear_probe")
    print_rows(out, shown.title, shown.rows, shown.footnotes, details=True)
    assert out.file.getvalue().count("  head.1.bias") == 2  # its norm and its product with the weight
    assert "settings not read: batch" in out.file.getvalue()


def test_a_single_case_is_shown_in_detail(goldens, out):
    assert verify_paths([goldens / "mae" / "lars" / "case.json"], console=out)
    assert re.search(r"mae/lars \(lars\) +pass +largest difference", out.file.getvalue())
