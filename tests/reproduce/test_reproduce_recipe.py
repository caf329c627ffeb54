"""From a row to commands: which, in which folders, and what is refused before anything runs."""

from __future__ import annotations

import dataclasses

import pytest

from mim_jax import config as configs
from mim_jax.cli import main
from mim_jax.errors import ConfigError
from mim_jax.reproduce.needs import NEEDS
from mim_jax.reproduce.recipe import Options, recipe, small
from mim_jax.results import files
from mim_jax.results.metrics import measure
from mim_jax.results.row import Published
from mim_jax.stages import check


def made(rows, name, **options):
    return recipe(files.find(name, rows), Options(**options))


def test_a_row_is_a_training_and_an_evaluation(rows):
    found = made(rows, "mae/vit_l16/imagenet1k/800ep/linear/ablation-ratio-10", workdir="w", source="folder:x")
    pretrain, judge = found.steps
    spec = "configs/mae/imagenet1k.py:variant=L/16,epochs=800,target=pixel,mask_ratio=0.1,source=folder:x"
    assert pretrain.argv == ("train", "--config", spec, "--workdir", "w/seed-0", "--config.seed=0")
    assert judge.argv == ("eval", "w/seed-0", "--linear", "--no-baselines")
    assert pretrain.config().method.mask_ratio == 0.1


def test_rows_of_one_pretraining_share_its_folder(rows):
    name = "mae/vit_b16/imagenet1k/1600ep/"
    folders = {made(rows, name + metric).workdir for metric in ("linear", "finetune")}
    assert [str(folder) for folder in folders] == ["runs/reproduce/mae-imagenet1k-variant=B-16"]
    assert made(rows, "mae/vit_l16/imagenet1k/1600ep/linear").workdir not in folders


def test_every_seed_has_a_run_of_its_own(rows):
    found = made(rows, "mae/vit_b16/imagenet1k/1600ep/linear", seeds=3, workdir="w")
    assert [str(step.run) for step in found.steps[::2]] == ["w/seed-0", "w/seed-1", "w/seed-2"]
    assert [step.config().seed for step in found.steps[::2]] == [0, 1, 2]


def test_settings_of_the_evaluation_go_to_it_alone(rows):
    given = ("evaluation.finetune.epochs=5", "optimizer.lr=1e-3")
    pretrain, judge = made(rows, "mae/vit_h14/imagenet1k/1600ep/finetune_448px", overrides=given).steps
    assert [w for w in pretrain.argv if w.startswith("--config.")] == ["--config.optimizer.lr=1e-3", "--config.seed=0"]
    assert judge.overrides == ("evaluation.finetune.image_size=448,448", "evaluation.finetune.epochs=5")


def test_the_last_stage_of_a_pipeline_is_judged(rows):
    pretrain, judge = made(rows, "dbot/vit_b16/imagenet1k/1600ep/finetune", workdir="w").steps
    assert judge.argv[1] == "w/seed-0/stage2"
    assert {stage.seed for stage in pretrain.config().stages.values()} == {0}


def test_at_the_small_scale_teachers_come_first(rows):
    found = made(rows, "beitv2/vit_b16/imagenet1k/1600ep/linear", scale="cifar10", epochs=2.0, workdir="w")
    assert [str(step.run) for step in found.steps] == ["w/needs/mae", "w/needs/vqkd", "w/seed-0", "w/seed-0"]
    assert "teacher=w/needs/mae" in found.steps[1].spec and "tokenizer=w/needs/vqkd" in found.steps[2].spec
    assert "--no-baselines" not in found.steps[3].argv
    own = made(rows, "beitv2/vit_b16/imagenet1k/1600ep/linear", scale="cifar10", arguments=("tokenizer=runs/mine",))
    assert len(own.steps) == 2 and "tokenizer=runs/mine" in own.steps[0].spec


def test_the_rows_own_settings_go_to_the_small_scale(rows):
    found = made(rows, "mae/vit_l16/imagenet1k/800ep/finetune/ablation-augmentation-none", scale="cifar10")
    assert found.steps[0].config().method.target == "pixel" and found.dropped == ("augmentation=none",)
    assert "target=pixel" in str(found.workdir)


def test_every_system_has_a_small_form(rows):
    systems = {}
    for row in rows:
        if isinstance(row, Published) and row.config and measure(row.metric).protocol not in ("", "segmentation"):
            systems.setdefault(row.method, row)
    for row in systems.values():
        check(configs.load(small(row)[0]))
    assert len(systems) > 20


def test_what_a_system_needs_is_a_config_and_its_argument():
    for system, need in NEEDS.items():
        check(configs.load(need.spec))
        check(configs.load(f"configs/{system}/cifar10.py:{need.argument}=runs/x"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mae/vit_b16/imagenet1k/1600ep/coco_box_ap", {}, "detection and segmentation of instances are not trained"),
        ("ibot/swin_t7/imagenet1k/300ep/knn", {}, "Swin backbones are not implemented"),
        ("beit/vit_b16/imagenet1k/800ep/finetune", {}, "give --argument tokenizer=RUN"),
        ("mae/vit_b16/imagenet1k/1600ep/linear", {"epochs": 3.0}, "--epochs belongs to --scale"),
        ("mae/vit_b16/imagenet1k/1600ep/ade20k", {}, "--config.evaluation.segmentation.source=VALUE"),
        ("mae/vit_b16/imagenet1k/1600ep/ade20k", {"scale": "cifar10"}, "has no small form"),
        ("mae/vit_b16/imagenet1k/1600ep/linear", {"overrides": ("optimizer.lrr=1",)}, "config.optimizer.lrr"),
        ("mae/vit_b16/imagenet1k/1600ep/linear", {"arguments": ("varriant=B/16",)}, "no argument 'varriant'"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(rows, name, options, words):
    with pytest.raises(ConfigError) as caught:
        made(rows, name, **options)
    assert words in str(caught.value)


def test_a_dry_run_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "mae/vit_b16/imagenet1k/1600ep/linear", "--dry-run", "--device", "h100"]
    assert main([*words, "--chips", "8", "--scale", "cifar10", "--source", "digits:train"]) == 0
    said = capsys.readouterr().out
    assert "mim-jax train --config configs/mae/cifar10.py:source=digits:train --workdir runs/reproduce/" in said
    assert "8 x h100" in said and "tolerance 0.5" in said and "not measured" in said
    assert list(tmp_path.iterdir()) == []


def test_options_say_what_they_are_in_the_command(rows):
    from mim_jax.reproduce.own_row import again

    found = made(rows, "mae/vit_b16/imagenet1k/1600ep/linear", scale="cifar10", epochs=2.0, seeds=2)
    assert again(found) == (
        "mim-jax reproduce mae/vit_b16/imagenet1k/1600ep/linear --scale cifar10 --epochs 2 --seeds 2"
    )
    assert dataclasses.replace(found.options, epochs=0.0).epochs == 0
