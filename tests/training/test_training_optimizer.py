"""Optimizers against arithmetic in NumPy and against PyTorch."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.methods.base import ParamGroups
from mim_jax.nn import ema as ema_ops
from mim_jax.training import optimizer as opt

GROUPS = ParamGroups(depth=2, no_decay=("token",), layers=((r"embed", 0), (r"blocks_(\d+)/", 1)))
LRS = [0.0, 1e-2, 5e-3, 2e-3, 1e-3]


def section(**changes) -> dict:
    return {**recipes.adamw(), **changes}


def make_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": {"kernel": (6, 4), "token": (1, 1, 4)},
        "blocks_0": {"kernel": (4, 4), "bias": (4,)},
        "blocks_1": {"kernel": (4, 4), "bias": (4,)},
        "head": {"kernel": (4, 3)},
    }
    return jax.tree.map(lambda s: rng.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))


SCALES = {"embed": 0.7**3, "blocks_0": 0.7**2, "blocks_1": 0.7, "head": 1.0}
NO_DECAY = {("embed", "token"), ("blocks_0", "bias"), ("blocks_1", "bias")}


def walk(tree):
    return {(a, b): np.asarray(leaf, np.float64) for a, sub in tree.items() for b, leaf in sub.items()}


def train(config, params, gradients, lrs, groups=GROUPS):
    optimizer = opt.build(config, groups, params)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    update = jax.jit(lambda g, s, p, lr: optimizer.update(g, s, p, lr=lr))
    for g, lr in zip(gradients, lrs, strict=True):
        updates, state = update(g, state, params, lr)
        params = optax.apply_updates(params, updates)
    return params, state


def gradients_like(params, steps=5, scale=1.0):
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: (scale * rng.normal(size=p.shape)).astype(np.float32), params) for _ in range(steps)]


def numpy_adamw(w, gradients, lrs, *, b1, b2, eps, decay):
    """PyTorch's order: shrink by the rate times decay, then step."""
    w, m, v = np.array(w, np.float64), 0.0, 0.0
    for t, (g, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        g = np.asarray(g, np.float64)
        w = w * (1 - lr * decay)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


def clipped(gradients, max_norm):
    out = []
    for g in gradients:
        norm = np.sqrt(sum((leaf**2).sum() for leaf in walk(g).values()))
        out.append(jax.tree.map(lambda x, n=norm: x * min(1.0, max_norm / (n + 1e-6)), g))
    return out


@pytest.mark.parametrize("clip", [0.0, 3.0])
def test_adamw_against_numpy(clip):
    params = make_params()
    gradients = gradients_like(params)
    config = section(b2=0.95, weight_decay=0.3, layer_decay=0.7, clip_norm=clip)
    got, _ = train(config, params, gradients, LRS)
    seen = clipped(gradients, clip) if clip else gradients
    for name, w in walk(params).items():
        decay = 0.0 if name in NO_DECAY else 0.3
        lrs = [lr * SCALES[name[0]] for lr in LRS]
        wanted = numpy_adamw(w, [walk(g)[name] for g in seen], lrs, b1=0.9, b2=0.95, eps=1e-8, decay=decay)
        np.testing.assert_allclose(walk(got)[name], wanted, rtol=1e-5, atol=1e-6, err_msg=str(name))


def test_adamw_against_torch():
    torch = pytest.importorskip("torch")
    params = make_params()
    gradients = gradients_like(params, scale=2.0)
    leaves = {name: torch.nn.Parameter(torch.tensor(w, dtype=torch.float32)) for name, w in walk(params).items()}
    settings = [
        {"params": [leaf], "weight_decay": 0.0 if name in NO_DECAY else 0.2, "scale": SCALES[name[0]]}
        for name, leaf in leaves.items()
    ]
    theirs = torch.optim.AdamW(settings, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for g, lr in zip(gradients, LRS, strict=True):
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(walk(g)[name], dtype=torch.float32)
        torch.nn.utils.clip_grad_norm_(list(leaves.values()), 4.0)
        for group in theirs.param_groups:
            group["lr"] = lr * group["scale"]
        theirs.step()
    ours, _ = train(section(weight_decay=0.2, layer_decay=0.7, clip_norm=4.0), params, gradients, LRS)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(walk(ours)[name], leaf.detach().numpy(), rtol=2e-5, atol=1e-6, err_msg=str(name))


def test_sgd_against_numpy():
    params = make_params()
    gradients = gradients_like(params)
    got, _ = train(section(name="sgd", momentum=0.8, weight_decay=0.1, layer_decay=0.7), params, gradients, LRS)
    for name, w in walk(params).items():
        buffer = 0.0
        for g, lr in zip(gradients, LRS, strict=True):
            buffer = 0.8 * buffer + walk(g)[name] + (0.0 if name in NO_DECAY else 0.1) * w
            w = w - lr * SCALES[name[0]] * buffer
        np.testing.assert_allclose(walk(got)[name], w, rtol=1e-5, atol=1e-6, err_msg=str(name))


def test_lars_spares_vectors_the_trust_ratio_and_decay():
    params = {"head": {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.ones(2, np.float32)}}
    gradients = [{"head": {"kernel": np.full((2, 2), 0.5, np.float32), "bias": np.full(2, 0.25, np.float32)}}]
    config = section(name="lars", weight_decay=0.1, trust_coefficient=0.01, momentum=0.9)
    got, _ = train(config, params, gradients, [2.0], ParamGroups(depth=0))
    trust = 0.01 * 6.0 / (2 * (0.5 + 0.3))  # |w| = 6, |g + wd w| = 2 * 0.8
    np.testing.assert_allclose(got["head"]["kernel"], 3.0 - 2.0 * trust * 0.8, rtol=1e-6)
    np.testing.assert_allclose(got["head"]["bias"], 1.0 - 2.0 * 0.25, rtol=1e-6)


def test_the_rate_is_what_the_caller_says_not_a_count():
    """A step that is taken again after being skipped must see its own rate."""
    params = make_params()
    optimizer = opt.build(section(weight_decay=0.0), GROUPS, params)
    params = jax.tree.map(jnp.asarray, params)
    gradient, state = gradients_like(params, 1)[0], optimizer.init(params)
    once, _ = optimizer.update(gradient, state, params, lr=1e-3)
    again, _ = optimizer.update(gradient, state, params, lr=2e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 2 * a, rtol=1e-6), once, again)
    with pytest.raises(TypeError, match="lr"):
        optimizer.update(gradient, state, params)


@pytest.mark.parametrize("name", opt.NAMES)
def test_frozen_parameters_stand_still_and_hold_no_state(name):
    params = make_params()
    groups = ParamGroups(depth=2, frozen=("^embed/", "blocks_0/"))
    got, state = train(section(name=name, clip_norm=1.0), params, gradients_like(params), [0.1] * len(LRS), groups)
    for frozen in ("embed", "blocks_0"):
        jax.tree.map(np.testing.assert_array_equal, got[frozen], params[frozen])
    assert np.abs(np.asarray(got["head"]["kernel"]) - params["head"]["kernel"]).max() > 1e-3
    trained = sum(leaf.size for part in ("blocks_1", "head") for leaf in jax.tree.leaves(params[part]))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == trained * (2 if name in ("adamw", "lamb") else 1)


def test_frozen_gradients_do_not_count_in_the_clipped_norm():
    params = {"a": {"w": np.zeros((1, 1), np.float32)}, "b": {"w": np.zeros((1, 1), np.float32)}}
    gradient = {"a": {"w": np.full((1, 1), 1e6, np.float32)}, "b": {"w": np.full((1, 1), 0.5, np.float32)}}
    config = section(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    got, _ = train(config, params, [gradient], [1.0], ParamGroups(depth=0, frozen=("a/",)))
    np.testing.assert_allclose(got["b"]["w"], -0.5, rtol=1e-6)


def test_moments_carry_the_paths_of_their_parameters():
    """Sharding rules search the path, so a moment's must end in its parameter's, with the same shape."""
    params = make_params()
    for groups in (GROUPS, ParamGroups(depth=2, frozen=("embed",))):
        state = opt.build(section(clip_norm=1.0), groups, params).init(jax.tree.map(jnp.asarray, params))
        leaves = {
            jax.tree_util.keystr(k, simple=True, separator="/"): v
            for k, v in jax.tree_util.tree_leaves_with_path(state)
        }
        for name, leaf in leaves.items():
            if leaf.ndim:
                owner = "/".join(name.split("/")[-2:])
                assert leaf.shape == params[owner.split("/")[0]][owner.split("/")[1]].shape, name
        assert any(name.endswith("mu/head/kernel") for name in leaves)


def test_building_from_shapes_alone():
    params = make_params()
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    a, b = opt.build(section(), GROUPS, shapes), opt.build(section(), GROUPS, params)
    assert jax.tree.structure(jax.eval_shape(a.init, shapes)) == jax.tree.structure(b.init(params))


def test_clip_leaves_small_gradients_alone():
    gradient = {"w": jnp.asarray([0.3, 0.4])}
    kept, _ = opt.clip_by_norm(1.0).update(gradient, opt.clip_by_norm(1.0).init(gradient))
    np.testing.assert_array_equal(kept["w"], gradient["w"])
    cut, _ = opt.clip_by_norm(0.1).update(gradient, opt.clip_by_norm(0.1).init(gradient))
    np.testing.assert_allclose(cut["w"], np.asarray([0.3, 0.4]) * 0.1 / (0.5 + 1e-6), rtol=1e-6)
    tiny = {"w": jnp.asarray([3e-6, 4e-6])}
    cut, _ = opt.clip_by_norm(1e-6).update(tiny, opt.clip_by_norm(1e-6).init(tiny))
    np.testing.assert_allclose(cut["w"], np.asarray([3e-6, 4e-6]) / 6, rtol=1e-5)  # 1e-6 / (5e-6 + 1e-6)


def test_ema_in_float32():
    params = {"w": jnp.asarray([1.0, 2.0], jnp.bfloat16)}
    ema = ema_ops.ema_start(params)
    assert ema["w"].dtype == jnp.float32
    moved = ema_ops.ema_update(ema, {"w": jnp.asarray([2.0, 0.0], jnp.bfloat16)}, 0.999)
    np.testing.assert_allclose(moved["w"], [1.001, 1.998], rtol=1e-6)
    assert moved["w"].dtype == jnp.float32


def test_ema_start_shares_no_buffer_with_the_parameters():
    """The step donates both; one buffer given twice would be an error."""
    params = {"w": jnp.ones(3)}
    ema = ema_ops.ema_start(params)
    step = jax.jit(
        lambda p, e: (jax.tree.map(lambda x: x + 1, p), ema_ops.ema_update(e, p, 0.5)), donate_argnums=(0, 1)
    )
    params, ema = step(params, ema)
    np.testing.assert_array_equal(params["w"], 2.0)
    np.testing.assert_array_equal(ema["w"], 1.0)


def test_peak_lr():
    assert opt.peak_lr(section(lr=1.5e-4, lr_batch=256), 4096) == pytest.approx(2.4e-3)
    assert opt.peak_lr(section(lr=1e-3, lr_batch=0), 4096) == 1e-3


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("name", "adamW", "did you mean 'adamw'"),
        ("lr", 0.0, r"\(0, inf\)"),
        ("lr", float("nan"), "nan"),
        ("lr", "1e-3", "'1e-3'"),
        ("lr", True, "True"),
        ("lr_batch", -256, "-256"),
        ("min_lr", -1e-6, r"\[0, inf\)"),
        ("b1", 1.0, r"\[0, 1\)"),
        ("b2", -0.1, r"\[0, 1\)"),
        ("eps", 0.0, r"\(0, inf\)"),
        ("momentum", 1.0, r"\[0, 1\)"),
        ("trust_coefficient", 0.0, r"\(0, inf\)"),
        ("weight_decay", -0.05, r"\[0, inf\)"),
        ("weight_decay", float("inf"), "inf"),
        ("layer_decay", 0.0, r"\(0, 1\]"),
        ("layer_decay", 1.1, r"\(0, 1\]"),
        ("clip_norm", -1.0, r"\[0, inf\)"),
        ("ema", 1.0, r"\[0, 1\)"),
        ("warmup_epochs", -1.0, r"\[0, inf\)"),
        ("warmup_lr", -1e-6, r"\[0, inf\)"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("clip", "per tensor", "did you mean 'per_tensor'"),
        ("decay_factor", 1.5, r"\(0, 1\]"),
        ("schedule_stretch", 0.0, r"\(0, inf\)"),
        ("schedule_offset", 0.5, "whole number"),
        ("weight_decay_end", float("inf"), "inf"),
        ("freeze_epochs", -1.0, r"\[0, inf\)"),
    ],
)
def test_impossible_values_are_refused(key, value, says):
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key} is .*{says}"):
        opt.check(section(**{key: value}))


@pytest.mark.parametrize("epochs", [(), (5, 3), (2, 2), (-1.0,), ("7",), (1.0, float("nan"))])
def test_steps_need_rising_epochs(epochs):
    with pytest.raises(ConfigError, match=r"^optimizer\.decay_epochs is .*rising"):
        opt.check(section(schedule="step", decay_epochs=epochs))
    opt.check(section(schedule="cosine", decay_epochs=epochs))


def test_steps_come_after_the_warm_up():
    with pytest.raises(ConfigError, match=r"optimizer\.decay_epochs begins at 30, before the warm-up of 40\.0 epochs"):
        opt.check(section(schedule="step", decay_epochs=(30, 60)))
    opt.check(section(schedule="step", decay_epochs=(40, 60)))


def test_a_start_above_the_peak_is_refused():
    opt.check(section(lr=1e-4, lr_batch=512, warmup_lr=1e-4, scale_min_lr=True), batch_size=64)
    with pytest.raises(ConfigError, match=r"optimizer\.warmup_lr is 0\.0001, above the peak learning rate 1\.25e-05"):
        opt.check(section(lr=1e-4, lr_batch=512, warmup_lr=1e-4), batch_size=64)
    with pytest.raises(ConfigError, match=r"optimizer\.min_lr is 0\.0002 x 4, above the peak learning rate 0\.0004"):
        opt.check(section(lr=1e-4, lr_batch=512, min_lr=2e-4, scale_min_lr=True), batch_size=2048)


def test_schedules_that_do_not_fit_are_refused():
    opt.check(section(warmup_epochs=5.0), epochs=5.0, batch_size=256)
    with pytest.raises(ConfigError, match=r"optimizer\.warmup_epochs is 40\.0, more than the 10\.0 epochs"):
        opt.check(section(), epochs=10.0)
    with pytest.raises(ConfigError, match=r"optimizer\.min_lr is 0\.001, above the peak learning rate 0\.00015"):
        opt.check(section(min_lr=1e-3), batch_size=256)


def test_the_recipe_passes_and_is_not_changed():
    config = section()
    before = copy.deepcopy(config)
    opt.check(config, epochs=400.0, batch_size=4096)
    assert config == before
