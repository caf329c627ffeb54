"""What changes during a run: scheduled weight decay, norms per tensor, parameters that stand still at first; LAMB."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.methods.base import ParamGroups
from mim_jax.training import optimizer as opt
from mim_jax.training.groups import group_table

GROUPS = ParamGroups(depth=0, no_decay=("token",), frozen_first=(r"last/",))
LRS = [1e-2, 5e-3, 2e-3, 1e-3]
DECAYS = [0.1, 0.2, 0.35, 0.4]
HELD = [True, True, False, False]
SHAPES = {"embed/kernel": (6, 4), "embed/token": (1, 1, 4), "body/bias": (4,), "last/kernel": (4, 3), "last/gain": (3,)}
DECAYED = ("embed/kernel", "last/kernel")


def section(**changes) -> dict:
    return {**recipes.adamw(), "eps": 1e-8, "b2": 0.999, **changes}


def nested(values: dict) -> dict:
    tree: dict = {}
    for name, value in values.items():
        folder, leaf = name.split("/")
        tree.setdefault(folder, {})[leaf] = value
    return tree


def draws(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


GRADIENTS = [draws(seed, scale) for seed, scale in ((1, 1.0), (2, 0.01), (3, 3.0), (4, 0.3))]


def train(config, groups=GROUPS, gradients=GRADIENTS, **scheduled):
    """Parameters after each step; `scheduled` holds a value per step for each name that `update` takes."""
    params = jax.tree.map(jnp.asarray, nested(draws(0)))
    optimizer = opt.build(config, groups, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    history = []
    for i, gradient in enumerate(gradients):
        now = {name: values[i] for name, values in scheduled.items()}
        updates, state = update(nested(gradient), state, params, **now)
        params = optax.apply_updates(params, updates)
        history.append({name: np.asarray(params[name.split("/")[0]][name.split("/")[1]]) for name in SHAPES})
    return history, state


def torch_train(*, clip=0.0, per_tensor=False, held=(False,) * 4, decays=DECAYS):
    """The same in PyTorch, with the loop of DINO's family: clip, drop gradients, step."""
    torch = pytest.importorskip("torch")
    leaves = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in draws(0).items()}
    on = [leaf for name, leaf in leaves.items() if name in DECAYED]
    off = [leaf for name, leaf in leaves.items() if name not in DECAYED]
    theirs = torch.optim.AdamW([{"params": on}, {"params": off, "weight_decay": 0.0}], betas=(0.9, 0.999), eps=1e-8)
    history = []
    for i, gradient in enumerate(GRADIENTS):
        theirs.param_groups[0]["weight_decay"] = decays[i]
        for group in theirs.param_groups:
            group["lr"] = LRS[i]
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradient[name])
        if clip and per_tensor:
            for leaf in leaves.values():
                leaf.grad.mul_(min(1.0, clip / (leaf.grad.norm().item() + 1e-6)))
        elif clip:
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), clip)
        if held[i]:
            for name in leaves:
                if name.startswith("last/"):
                    leaves[name].grad = None
        theirs.step()
        history.append({name: leaf.detach().numpy().copy() for name, leaf in leaves.items()})
    return history


def agree(ours, theirs):
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name in SHAPES:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=2e-6, err_msg=f"{name} at step {step}")


def test_weight_decay_of_every_step_against_torch():
    ours, _ = train(section(weight_decay=0.1, weight_decay_end=0.4), lr=LRS, weight_decay=DECAYS)
    agree(ours, torch_train())


def test_scheduled_decay_must_be_given():
    with pytest.raises(TypeError, match="weight_decay"):
        train(section(weight_decay_end=0.4), lr=LRS)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_clipping_against_torch(per_tensor):
    config = section(weight_decay=0.1, clip_norm=0.7, clip="per_tensor" if per_tensor else "global")
    ours, _ = train(config, lr=LRS)
    agree(ours, torch_train(clip=0.7, per_tensor=per_tensor, decays=[0.1] * 4))


def test_norms_per_tensor_leave_small_gradients_alone():
    clip = opt.clip_each_by_norm(1.0)
    gradient = {"small": jnp.asarray([0.3, 0.4]), "large": jnp.asarray([3.0, 4.0]), "zero": jnp.zeros(2)}
    cut, _ = clip.update(gradient, clip.init(gradient))
    np.testing.assert_array_equal(cut["small"], gradient["small"])
    np.testing.assert_allclose(cut["large"], np.asarray([3.0, 4.0]) / (5 + 1e-6), rtol=1e-6)
    np.testing.assert_array_equal(cut["zero"], 0.0)


@pytest.mark.parametrize("clip", ["global", "per_tensor"])
def test_parameters_stand_still_at_first_as_in_torch(clip):
    """Everything at once, as DINO and iBOT train: the held gradients count in a global norm, and their steps later."""
    config = section(weight_decay=0.1, weight_decay_end=0.4, freeze_epochs=1.0, clip_norm=0.7, clip=clip)
    ours, state = train(config, lr=LRS, weight_decay=DECAYS, held=HELD)
    agree(ours, torch_train(clip=0.7, per_tensor=clip == "per_tensor", held=HELD))
    start = draws(0)
    for name in SHAPES:
        moved = not np.array_equal(ours[1][name], start[name])
        assert moved == (not name.startswith("last/")), name
    leaves = jax.tree_util.tree_leaves_with_path(state)
    counts = {int(leaf) for path, leaf in leaves if jax.tree_util.keystr(path).endswith(".count")}
    assert counts == {2, 4}


@pytest.mark.parametrize("name", opt.NAMES)
def test_nothing_is_remembered_of_gradients_while_held(name):
    config = section(name=name, freeze_epochs=1.0, weight_decay=0.1)
    wild = [{k: v * 1e3 for k, v in g.items()} if on else g for g, on in zip(GRADIENTS, HELD, strict=True)]
    a, _ = train(config, lr=LRS, held=HELD)
    b, _ = train(config, gradients=wild, lr=LRS, held=HELD)
    for leaf in ("last/kernel", "last/gain"):
        np.testing.assert_array_equal(a[-1][leaf], b[-1][leaf])


def test_held_and_frozen_parameters_together():
    groups = dataclasses.replace(GROUPS, frozen=("last/gain", "body/"))
    config = section(weight_decay=0.1, freeze_epochs=1.0, clip_norm=0.7, clip="per_tensor")
    ours, state = train(config, groups, lr=LRS, held=HELD)
    whole, _ = train(config, lr=LRS, held=HELD)
    for name, start in draws(0).items():
        wanted = start if name in ("last/gain", "body/bias") else whole[-1][name]
        np.testing.assert_array_equal(ours[-1][name], wanted, err_msg=name)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * (24 + 4 + 12)


def test_a_method_without_held_parameters_is_refused():
    params = nested(draws(0))
    with pytest.raises(ConfigError, match=r"optimizer\.freeze_epochs is 1\.0, but the method has no parameters"):
        opt.build(section(freeze_epochs=1.0), ParamGroups(depth=0), params)
    with pytest.raises(ConfigError, match="'nowhere' of frozen parameters matches none"):
        group_table(ParamGroups(depth=0, frozen_first=("nowhere",)), params)


def test_what_is_frozen_is_not_held_too():
    table = group_table(dataclasses.replace(GROUPS, frozen=("last/gain",)), nested(draws(0)))
    assert table["last/gain"].frozen and not table["last/gain"].held and table["last/kernel"].held


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_a_decay_that_stays_is_the_same_by_schedule(name):
    fixed, _ = train(section(name=name, weight_decay=0.3), lr=LRS)
    given, _ = train(section(name=name, weight_decay=0.3, weight_decay_end=0.3), lr=LRS, weight_decay=[0.3] * 4)
    agree(fixed, given)


# ---- LAMB ------------------------------------------------------------------------------------------------------


def numpy_lamb(gradients, *, b1, b2, eps, decays, max_norm):
    """You et al. 2020, algorithm 2, with bias correction; what takes no decay takes no trust ratio (timm)."""
    params = {name: value.astype(np.float64) for name, value in draws(0).items()}
    first, second = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for t, (gradient, lr, decay) in enumerate(zip(gradients, LRS, decays, strict=True), start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        for name, w in params.items():
            g = gradient[name].astype(np.float64) / max(1.0, norm / max_norm)
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            step = first[name] / (1 - b1**t) / (np.sqrt(second[name]) / np.sqrt(1 - b2**t) + eps)
            if name in DECAYED:
                step = step + decay * w
                norms = np.linalg.norm(w), np.linalg.norm(step)
                step = step * (norms[0] / norms[1] if min(norms) > 0 else 1.0)
            params[name] = w - lr * step
    return params


@pytest.mark.parametrize("max_norm", [2.0, 1e3])
def test_lamb_against_numpy(max_norm):
    config = section(name="lamb", b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.1, weight_decay_end=0.4, clip_norm=max_norm)
    ours, _ = train(config, lr=LRS, weight_decay=DECAYS)
    wanted = numpy_lamb(GRADIENTS, b1=0.9, b2=0.95, eps=1e-6, decays=DECAYS, max_norm=max_norm)
    for name, value in wanted.items():
        np.testing.assert_allclose(ours[-1][name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_lamb_clips_without_the_constant_of_torch():
    gradients = [{name: np.full(shape, 1e-6, np.float32) for name, shape in SHAPES.items()}]
    clip = opt._clip(section(name="lamb", clip_norm=1e-6))
    cut, _ = clip.update(nested(gradients[0]), optax.EmptyState())
    np.testing.assert_allclose(optax.tree.norm(cut), 1e-6, rtol=1e-5)


def test_lamb_without_decay_is_adam():
    lamb, _ = train(section(name="lamb", weight_decay=0.0), lr=LRS)
    adam, _ = train(section(weight_decay=0.0), lr=LRS)
    for name in SHAPES:
        np.testing.assert_array_equal(lamb[-1][name], adam[-1][name])


def test_lamb_moves_a_matrix_that_starts_at_zero():
    """Its trust ratio is 1 there, not 0, or it would stay at zero for ever."""
    params = {"w": jnp.zeros((2, 2))}
    optimizer = opt.build(section(name="lamb", weight_decay=0.1), ParamGroups(depth=0), params)
    updates, _ = optimizer.update({"w": jnp.ones((2, 2))}, optimizer.init(params), params, lr=0.1)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)
