"""NaN and Inf, wherever they come from: caught at that step, named, and replayed; spikes of the loss: gone back for.

What is injected goes in from outside: by the data, by the state that a checkpoint holds, and by a method whose loss has
a gradient that is not a number. The loop has no door for it.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_runs as real

from mim_jax import cli
from mim_jax import config as configs
from mim_jax.errors import MimError
from mim_jax.methods import registry
from mim_jax.methods.ibot import IBOT
from mim_jax.methods.mae import MAE
from mim_jax.pretrain import TrainData, check_all, pretrain
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.groups import flat, path_name
from mim_jax.training.left_out import LeftOut
from mim_jax.training.loop import train
from mim_jax.training.runs import load_run

RUN = [
    "training.log_every=1", "training.epochs=1", "training.batch_size=128", "training.tensorboard=False",
    "training.checkpoint.every_epochs=0.4", "training.evaluate.pictures_every_epochs=0", "training.checkpoint.keep=9",
    "training.evaluate.knn_every_epochs=0", "training.evaluate.loss_every_epochs=0", "training.precision=fp32",
    "optimizer.warmup_epochs=0.5",
]  # fmt: skip
SMALL_MAE = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "optimizer.ema=0.9",
]  # fmt: skip
SMALL_IBOT = [
    "data.source=digits:train", "data.eval_source=digits:test", "model.width=16", "model.depth=1", "model.heads=2",
    "method.head.hidden=16", "method.head.bottleneck=8",
]  # fmt: skip


def mae(root, *more):
    return configs.load(str(root / "configs/mae/digits.py"), [*RUN, *SMALL_MAE, *more])


def ibot(root, *more):
    return configs.load(str(root / "configs/ibot/cifar10.py:local_crops=0,outputs=32"), [*RUN, *SMALL_IBOT, *more])


@pytest.fixture(scope="module")
def begun(root, tmp_path_factory):
    """{system: (config, state after 8 of 11 steps, workdir)}: what the faults are put into."""
    made: dict[str, Any] = {}

    def run(make, *more):
        if make not in made:
            config, workdir = make(root, *more), tmp_path_factory.mktemp(make.__name__)
            made[make] = config, train(config, workdir, check_all(config), TrainData(config, workdir))
        return made[make]

    return run


def poisoned(state, path: str, value: float):
    """The state with one value of one array, `field/name`, replaced."""

    def put(where, leaf):
        name = path_name(where)
        if name != path:
            return leaf
        return jnp.asarray(leaf).reshape(-1).at[0].set(value).reshape(leaf.shape)

    new = jax.tree_util.tree_map_with_path(put, state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    return new


def restart(config, workdir, state, step: int):
    """A run that goes on from `state` at `step`."""
    workdir.mkdir(exist_ok=True)
    state = state.replace(step=jnp.int32(step))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, state, None)
    configs.save(config, workdir / "config.json")
    return train(config, workdir, check_all(config), TrainData(config, workdir))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


PLACES = [
    (mae, "params", "encoder/", math.nan, "params/"),
    slow(mae, "params", "decoder/", math.inf, "params/"),
    (mae, "ema", "encoder/", math.nan, "ema/"),
    slow(mae, "ema", "decoder/", math.inf, "ema/"),
    (ibot, "extra", "center", math.nan, "extra/center"),
    slow(ibot, "extra", "patch_center", math.inf, "extra/patch_center"),
    slow(ibot, "extra", "teacher/", math.nan, "extra/teacher"),
]


@pytest.mark.parametrize(("make", "field", "within", "value", "named"), PLACES)
def test_in_the_state(make, field, within, value, named, begun, tmp_path, fault, capsys):
    config, state = begun(make)
    name = next(n for n in flat(getattr(state, field)) if n.startswith(within))
    bad = poisoned(state, f"{field}/{name}", value)
    assert not np.isfinite(np.asarray(flat(getattr(bad, field))[name])).all()
    with pytest.raises(MimError, match=rf"not finite at step 5; first non-finite array: {named}.*doctor nan") as error:
        restart(config, tmp_path / "run", bad, 5)
    bundle = tmp_path / "run" / "nonfinite" / "step_00000005"
    capsys.readouterr()
    replayed = cli.main(["doctor", "nan", str(bundle)]) == 0
    survived = replayed and f"first non-finite array: {field}/{name}" in capsys.readouterr().out
    what = f"{value} in a value of {field}/{within.strip('/')}"
    fault(what, tried=1, survived=int(survived), lost="nothing: caught at that step, named, replayed")
    assert survived and f"{field}/{name}" in str(error.value)
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.all_steps() == [5]  # nothing was saved after it


class Poisoned(TrainData):
    """Real data, but for batches of another value."""

    at: tuple[int, ...] = (3,)
    value: float = math.inf

    def open_at(self, step):
        for number, batch in enumerate(super().open_at(step), start=step):
            image = batch["image"].astype(np.float32)
            yield {**batch, "image": np.full_like(image, self.value) if number in self.at else image}


@pytest.mark.parametrize("value", [slow(math.nan), math.inf])
def test_in_a_batch(value, root, tmp_path, fault, capsys):
    config = mae(root)
    data = Poisoned(config, tmp_path)
    data.value = value
    with pytest.raises(MimError, match="not finite at step 3; first non-finite array: batch/image.*doctor nan"):
        train(config, tmp_path, check_all(config), data)
    assert cli.main(["doctor", "nan", str(tmp_path / "nonfinite" / "step_00000003")]) == 0
    survived = "first non-finite array: batch/image" in capsys.readouterr().out
    fault(f"{value} in a batch", tried=1, survived=int(survived), lost="nothing: caught at that step, named, replayed")
    assert survived


@jax.custom_vjp
def crooked(values, bad):
    """The values; their gradient is not a number where `bad`."""
    return values


crooked.defvjp(lambda values, bad: (values, bad), lambda bad, g: (jnp.where(bad, jnp.nan, g), None))


class Crooked(MAE):
    """An MAE with a gradient that is not a number behind the encoder's block, at step 4; its loss is as ever."""

    def forward(self, params, extra, frozen, batch, draws, progress):
        calls = []

        def bend(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path == ("blocks_0",):
                calls.append(1)
                if len(calls) == 1:  # the decoder has one of that name too, later
                    return jax.tree.map(lambda leaf: crooked(leaf, progress.step == 4), out)
            return out

        with nn.intercept_methods(bend):
            return super().forward(params, extra, frozen, batch, draws, progress)


class Spoiling(IBOT):
    """An iBOT whose update makes a centre that is not a number, at step 4."""

    def update(self, extra, params, output, progress):
        new = super().update(extra, params, output, progress)
        return {**new, "center": jnp.where(progress.step == 4, jnp.nan, new["center"])}


class Jumping(MAE):
    """An MAE whose loss jumps at step 7."""

    def forward(self, params, extra, frozen, batch, draws, progress):
        loss, output = super().forward(params, extra, frozen, batch, draws, progress)
        return loss * jnp.where(progress.step == 7, 50.0, 1.0), output


def test_in_a_gradient_alone(root, tmp_path, monkeypatch, fault, capsys):
    monkeypatch.setitem(registry.METHODS, "mae", f"{__name__}:Crooked")
    words = r"not finite at step 4; first non-finite array: gradient/encoder/blocks_0/mlp/fc2.*doctor nan"
    with pytest.raises(MimError, match=words):
        pretrain(mae(root), tmp_path)
    capsys.readouterr()
    assert cli.main(["doctor", "nan", str(tmp_path / "nonfinite" / "step_00000004")]) == 0
    out = capsys.readouterr().out
    survived = "first non-finite array: gradient/encoder/blocks_0/mlp/fc2" in out and "loss nan" not in out
    fault("NaN in a gradient, the loss finite", tried=1, survived=int(survived), lost="nothing: named by its layer")
    assert survived
    assert real.losses(tmp_path)[-1][0] == 4  # step 4, counted from 0, did not count


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_in_what_a_step_updates(policy, root, tmp_path, monkeypatch, fault):
    """The centre is lost when it is noticed; to leave the batch out, the run goes back to a checkpoint."""
    monkeypatch.setitem(registry.METHODS, "ibot", f"{__name__}:Spoiling")
    config, words = ibot(root, f"training.on_nonfinite={policy}"), "first non-finite array: extra/center; .*doctor nan"
    if policy == "stop":
        with pytest.raises(MimError, match=f"has updated is not finite at step 4; {words}"):
            pretrain(config, tmp_path)
        survived = load_run(tmp_path, None).step == 4
    else:
        assert pretrain(config, tmp_path)
        steps = [step for step, _ in real.losses(tmp_path)]
        finite = all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(load_run(tmp_path).variables))
        survived = steps == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11] and finite
        (event,) = real.events(tmp_path, "rewind")
        assert (event["step"], event["to"], event["left_out"]) == (4, 4, [4]) and "batch 4 is left out" in event["text"]
        before = real.losses(tmp_path)
        pretrain(config, tmp_path)
        assert real.losses(tmp_path) == before
    lost = "nothing: the run stops" if policy == "stop" else "that batch alone"
    fault(f"NaN made by an update (centre), policy {policy}", tried=1, survived=int(survived), lost=lost)
    assert survived


SPIKE = ["training.on_spike=rewind", "training.spike.window=4", "training.spike.leave_out=2", "training.epochs=2"]


@pytest.mark.slow
def test_after_a_spike_the_run_goes_back(root, tmp_path, monkeypatch, fault, capfd):
    """To a checkpoint before it, without the batches that led to it; which checkpoint that is changes nothing."""
    monkeypatch.setitem(registry.METHODS, "mae", f"{__name__}:Jumping")
    runs = {}
    for name, more in {
        "every 4": [],
        "at the end": ["training.checkpoint.every_epochs=2"],  # so it begins anew
        "often": ["training.checkpoint.every_epochs=0.1"],
    }.items():
        pretrain(mae(root, *SPIKE, *more), tmp_path / name)
        (event,) = real.events(tmp_path / name, "rewind")
        assert event["step"] == 7 and event["left_out"] == [6, 7]
        runs[name] = event["to"], real.losses(tmp_path / name), load_run(tmp_path / name).checkpoint_hash
    assert [found[0] for found in runs.values()] == [4, 0, 6]
    assert "the loss jumped to" in capfd.readouterr().err
    assert (tmp_path / "often" / "checkpoints" / "rewound" / "7").is_dir()
    steps = [step for step, _ in runs["every 4"][1]]
    survived = all(found[1:] == runs["every 4"][1:] for found in runs.values())
    survived &= steps == [n for n in range(1, 23) if n not in (7, 8)]
    fault("loss spike, gone back for", tried=3, survived=3 * survived, lost="the batches around it, for good")
    assert survived

    # Interrupted after it went back, before it saved anything: it meets the spike again, and does the same again.
    ours = tmp_path / "interrupted"
    config = mae(root, *SPIKE)

    class Fault:
        name, every_steps = "fault", 7

        def __call__(self, variables, step):
            if real.events(ours, "rewind") or step > 7:
                raise KeyboardInterrupt
            return {}

    with pytest.raises(KeyboardInterrupt):
        train(config, ours, check_all(config), TrainData(config, ours), lambda *_: (Fault(),))
    pretrain(config, ours)
    assert (real.losses(ours), load_run(ours).checkpoint_hash) == runs["every 4"][1:]
    before = real.losses(ours)
    pretrain(config, ours)
    assert real.losses(ours) == before


def test_a_spike_is_judged_by_the_losses_before_it():
    watch = LeftOut(factor=3.0, window=4, leave_out=2, most=1)
    for loss in (1.0, 1.2, 0.8):
        watch.saw(loss)
    assert not watch.is_spike(100.0)  # too few
    watch.saw(1.0)
    assert watch.is_spike(3.1) and not watch.is_spike(2.9) and watch.is_spike(math.inf)
    watch.saw(math.nan)
    assert list(watch.losses) == [1.0, 1.2, 0.8, 1.0]
    assert watch.around(1) == {0, 1} and watch.around(9) == {8, 9}
    watch.steps, watch.spikes = {8, 9}, [9]
    again = LeftOut(factor=3.0, window=4)
    again.go_back_to(watch.to_json())
    assert (again.steps, again.spikes, list(again.losses)) == ({8, 9}, [9], [1.0, 1.2, 0.8, 1.0])
    assert LeftOut().to_json() == {} and not LeftOut().is_spike(1e9)
