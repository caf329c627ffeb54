"""The tools of the same-budget tables: seeds in one program do what single runs do, and tables hold what was run."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import same_budget  # noqa: E402
from budget import collect, colour, figure, jobs, measured, resident, tables, views  # noqa: E402
from budget.systems import SYSTEMS  # noqa: E402
from budget.vectorised import Budget, config_of, judge, train  # noqa: E402

from mim_jax import config as configs  # noqa: E402
from mim_jax.data import effects  # noqa: E402
from mim_jax.data.erasing import Erasing  # noqa: E402
from mim_jax.data.jitter import Change  # noqa: E402
from mim_jax.data.views import View  # noqa: E402
from mim_jax.pretrain import check_all  # noqa: E402
from mim_jax.training.runs import load_run  # noqa: E402

TINY = ("model.width=16", "model.depth=1", "model.heads=2", "training.batch_size=16", "training.precision=fp32")
TINY += ("method.decoder_width=16", "method.decoder_depth=1", "method.decoder_heads=2", "optimizer.warmup_epochs=0.5")
PICTURES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


def made(root, seeds=(0, 1), name="mae", changes=TINY):
    config = configs.load(str(root / "configs" / name / "cifar10.py") + ":epochs=1", changes)
    return resident.prepare(config, check_all(config), PICTURES, seeds)


def no_teachers(shapes):
    return {}


def close(one, other, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


def test_a_seed_among_others_computes_what_the_ordinary_step_computes(root):
    run = made(root)
    states, frozen = resident.begin(run, no_teachers)
    make = jax.jit(partial(views.batch, run.views))
    steps = [make(jax.random.key(n), run.images[16 * n : 16 * n + 16]) for n in range(3)]
    together, together_step = states, jax.jit(resident.step_of(run))
    for batch in steps:
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
        together, scalars = together_step(together, frozen, both, run.keys)
    for place in range(2):
        alone = jax.tree.map(lambda leaf, i=place: leaf[i], states)
        for batch in steps:
            alone, single = run.program.step(alone, frozen, batch, run.keys[place])
        close(jax.tree.map(lambda leaf, i=place: leaf[i], together.params), alone.params)
        np.testing.assert_allclose(scalars["loss"][place], single["loss"], rtol=1e-5)
    assert not np.allclose(scalars["loss"][0], scalars["loss"][1])


def test_a_seed_is_the_same_alone_and_among_others(root):
    def end(seeds):
        run = made(root, seeds)
        after = [(states, scalars) for states, scalars, _ in resident.train(run, *resident.begin(run, no_teachers))]
        assert [len(scalars["loss"]) for _, scalars in after] == [4]
        return after[-1][0]

    both, second = end((0, 1)), end((1,))
    assert int(both.step[0]) == 4
    close(jax.tree.map(lambda leaf: leaf[1], both.params), jax.tree.map(lambda leaf: leaf[0], second.params))


def test_an_epoch_shows_every_image_once(root, monkeypatch):
    run = made(root)
    seen = []
    monkeypatch.setattr(resident, "make_batch", lambda views, key, images: {"image": images})
    monkeypatch.setattr(resident, "step_of", lambda run: lambda states, frozen, batches, keys: (states, batches))
    numbered = jnp.arange(64, dtype=jnp.uint8)[:, None]
    data = jnp.stack([jax.random.key(0), jax.random.key(1)])
    _, seen = resident.epoch_of(run)(jnp.zeros(2), {}, numbered, run.keys, data, 4)
    orders = np.asarray(seen["image"])[..., 0].transpose(1, 0, 2).reshape(2, 64)
    assert [sorted(order) for order in orders.tolist()] == [list(range(64))] * 2
    assert not np.array_equal(orders[0], orders[1])


def test_boxes_are_inside_and_as_large_as_the_view_says():
    view = View("image", (32, 32), scale=(0.2, 1.0), flip=0.3)
    top, left, h, w, flip = np.asarray(
        jax.jit(jax.vmap(lambda key: views.box(view, key, 32, 32)))(jax.random.split(jax.random.key(0), 4000))
    ).T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 32).all() and (left + w <= 32).all()
    assert (np.maximum(h / w, w / h) <= 4 / 3 * 1.2).all()
    assert abs(flip.mean() - 0.3) < 0.03
    host = [view.choose(PICTURES[0], view.draws(0, 0, i, 0)).box for i in range(1000)]
    assert abs((h * w).mean() / np.mean([box[2] * box[3] for box in host]) - 1) < 0.03


def test_views_that_share_a_crop_are_equal_and_several_crops_differ():
    first = View("image", (32, 32))
    made = views.batch(
        (first, View("teacher", (32, 32), same_as="image")), jax.random.key(0), jnp.asarray(PICTURES[:4])
    )
    np.testing.assert_array_equal(made["image"], made["teacher"])
    several = views.batch((View("local", (16, 16), count=3),), jax.random.key(0), jnp.asarray(PICTURES[:4]))["local"]
    assert several.shape == (4, 3, 16, 16, 3) and not np.array_equal(several[:, 0], several[:, 1])


def test_colours_are_the_hosts():
    image = PICTURES[0]
    x = jnp.asarray(image, jnp.float32) / 255
    near = lambda device, host, levels: np.abs(np.asarray(device) * 255 - host.astype(float)).max() <= levels  # noqa: E731
    assert near(colour._grey(x), effects.grayscale(image), 1.0)
    smooth = np.asarray(jax.image.resize(jnp.asarray(PICTURES[1], jnp.float32), (32, 32, 3), "cubic")).clip(0, 255)
    smooth = effects.blur(smooth.astype(np.uint8), 2.0)
    assert near(colour.blur(jnp.asarray(smooth, jnp.float32) / 255, 1.5), effects.blur(smooth, 1.5), 4.0)
    hue = Change((3,), (0.0, 0.0, 0.0, 0.1))(image.astype(np.float32) / 255)  # the host's arithmetic for floats
    np.testing.assert_allclose(colour.shift_hue(x, jnp.float32(0.1)), hue, atol=2e-3)
    solarizing = View("image", (32, 32), effects=effects.Effects(solarize=1.0))
    np.testing.assert_array_equal(colour.with_effects(solarizing, jax.random.key(0), image), effects.solarize(image))


def test_views_that_are_not_made_here_are_refused():
    with pytest.raises(SystemExit, match="view image: crop 'center' is not done here"):
        views.refuse([View("image", (32, 32), crop="center")])
    with pytest.raises(SystemExit, match="RandAugment and erasing are not done here"):
        views.refuse([View("image", (32, 32), erasing=Erasing(0.25))])


def test_exactly_one_effect_or_none():
    plain = View("image", (32, 32))
    np.testing.assert_array_equal(colour.with_effects(plain, jax.random.key(0), PICTURES[0]), PICTURES[0])
    one = View("image", (32, 32), effects=effects.Effects(grayscale=1.0, solarize=1.0, one=True))
    made = [np.asarray(colour.with_effects(one, jax.random.key(n), PICTURES[0])) for n in range(12)]
    grey = [(image == image[..., :1]).all() for image in made]
    assert 0 < sum(grey) < 12
    assert all(g or np.array_equal(image, effects.solarize(PICTURES[0])) for g, image in zip(grey, made, strict=True))


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_has_a_config_at_both_sizes_whose_views_are_made_here(name, tmp_path):
    for small in (True, False):
        config = config_of(name, Budget("x", "y", tmp_path, epochs=2.0, batch=64, small=small), 50_000)
        views.refuse([View.from_config(view, config.data.views, 32) for view in config.data.views])
        check_all(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_seeds_of_every_system_trace_as_one_program(name, tmp_path):
    config = config_of(name, Budget("x", "y", tmp_path, epochs=2.0, batch=16, small=True), 64)
    run = resident.prepare(config, check_all(config), PICTURES, (0, 1))
    states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), run.program.state)
    data = jnp.stack([jax.random.key(0), jax.random.key(1)])
    after, scalars = jax.eval_shape(
        lambda *args: resident.epoch_of(run)(*args, 4), states, run.program.frozen, run.images, run.keys, data
    )
    assert scalars["loss"].shape == (4, 2)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, states)


def test_seeds_become_ordinary_runs_and_a_table(tmp_path, capsys):
    changes = (*(change for change in TINY if "batch" not in change), "evaluation.limit=100", "evaluation.knn.k=10")
    sizes = {"epochs": 1.5, "batch": 256, "seeds": 2, "small": True, "judge": ("knn",)}
    budget = Budget("digits:train", "digits:test", tmp_path, **sizes, changes=changes)
    train("mae", budget)
    run = load_run(tmp_path / "mae-seed1")
    assert run.config.seed == 1 and run.step == 8
    assert len((tmp_path / "mae" / "metrics.jsonl").read_text().splitlines()) == 2
    judge("mae", budget)
    (row,) = collect.rows(tmp_path)
    assert row["seeds"] == [0, 1] and row["images"] == 8 * 256 and len(set(row["checkpoints"])) == 2
    values = row["protocols"]["knn"]["values"]
    assert len(values["pretrained"]["top1_k10"]) == 2 and len(values["untrained"]["top1_k10"]) == 1
    capsys.readouterr()
    train("mae", budget)
    assert capsys.readouterr().out == "mae: trained already\n"
    assert same_budget.main(["--out", str(tmp_path), "--figure", str(tmp_path / "figure.svg")]) == 0
    assert "| mae | 2 | 2,048 |" in capsys.readouterr().out and (tmp_path / "figure.svg").stat().st_size > 5000


def row(**changes):
    values = {"pretrained": {"top1_k10": [0.5, 0.52], "top1_k20": [0.5, 0.5]}, "pixels": {"top1_k10": [0.39]}}
    found = {
        "system": "mae",
        "seeds": [0, 1],
        "images": 32000,
        "flops": 2.7e12,
        "protocols": {"knn": {"values": values}},
    }
    return found | changes


def test_a_table_leaves_out_what_nobody_ran():
    lines = tables.table([row(), row(system="beit", protocols={})]).splitlines()
    assert lines[0] == "| system | seeds | images seen | TFLOPs | kNN k=10 | kNN k=20 |"
    assert lines[2] == "| mae | 2 | 32,000 | 2.7 | 51.0 ± 1.4 / 39.0 | 50.0 |"
    assert lines[3] == "| beit | 2 | 32,000 | 2.7 |  |  |"


def test_measured_rows_are_means_over_seeds_and_are_added_once(tmp_path, monkeypatch):
    values = {"pretrained": [0.30, 0.34], "untrained": [0.20, 0.20], "pixels": [0.39, 0.39]}
    protocols = {"linear": {"counts": {"train": 10, "eval": 5}, "values": {k: {"top1": v} for k, v in values.items()}}}
    found = row(images=32_000, steps=500, batch=64, seeds=[0, 1], checkpoints=["a" * 64, "b" * 64], protocols=protocols)
    for run in ("mae", "mae-seed1"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "results" / "logs").mkdir(parents=True)
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(collect, "rows", lambda out: [found])
    (new,) = measured.add(tmp_path, "abc", "a CPU", ["mae"])
    assert new.id == "mae/vit_w96d3p4/cifar10/0.64ep/linear" and (new.value, new.spread) == (32.0, 2.83)
    assert new.baselines == {"untrained": 20.0, "pixels": 39.0} and (tmp_path / new.log).exists()
    assert measured.add(tmp_path, "abc", "a CPU", []) == [] and measured.add(tmp_path, "abc", "a CPU", ["beit"]) == []


def test_a_figure_needs_a_result(tmp_path):
    assert figure.draw([row(), row(flops=1e13)], tmp_path / "sub" / "a.png").exists()
    with pytest.raises(SystemExit, match="no result to draw"):
        figure.draw([row(protocols={})], tmp_path / "b.png")


def test_seeds_of_different_lengths_are_not_mixed(tmp_path):
    for name, steps in (("mae", 10), ("mae-seed1", 11)):
        run = tmp_path / name
        run.mkdir()
        resolved = {"steps": {"total": steps}, "batch": {"global": 64}, "training FLOPs per image": 1.0}
        (run / "resolved.json").write_text(json.dumps(resolved | {"parameters": {}, "devices": {}}))
        entry = {
            "protocol": "knn",
            "metrics": {},
            "baselines": {},
            "command": "",
            "counts": {},
            "checkpoint": {"hash": ""},
        }
        (run / "eval.json").write_text(json.dumps([entry]))
    with pytest.raises(SystemExit, match="has 11 steps of 64, another seed of it 10"):
        collect.rows(tmp_path)


def test_commands_of_a_seed(tmp_path):
    plan = jobs.Plan(Path("/data"), tmp_path, seeds=2, protocols=("knn", "finetune"))
    first, judged = jobs.commands("beit", 1, plan)
    assert f"tokenizer={tmp_path}/tokenizer" in first[first.index("--config") + 1]
    assert "--config.seed=1" in first and str(tmp_path / "beit-seed1") in first
    assert {"--knn", "--finetune", "--config.evaluation.finetune.epochs=5"} <= set(judged)
    (tmp_path / "beit-seed1").mkdir()
    (tmp_path / "beit-seed1" / "eval.json").write_text('[{"protocol": "knn"}]')
    _, judged = jobs.commands("beit", 1, plan)
    assert "--finetune" in judged and "--knn" not in judged
    (tmp_path / "beit-seed1" / "eval.json").write_text('[{"protocol": "knn"}, {"protocol": "finetune"}]')
    assert len(jobs.commands("beit", 1, plan)) == 1


def test_what_is_needed_comes_first():
    assert jobs.in_order(["beitv2", "simmim"]) == [["mae", "simmim"], ["vqkd"], ["beitv2"]]
    assert jobs.in_order(["beit"], has_tokenizer=True) == [["beit"]]


def test_a_budget_of_arithmetic_buys_more_images_of_what_is_cheaper(tmp_path):
    images = partial(jobs.images_of, plan=jobs.Plan(None, tmp_path, flops=1e13))
    assert images("mae") * jobs.flops_per_image("mae") == pytest.approx(1e13)
    assert images("mae") > images("simmim")
    assert jobs.images_of("mae", jobs.Plan(None, tmp_path)) == 32_000
