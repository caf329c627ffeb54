"""Name maps: both directions from one set of rules, and nothing lost on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import VerifyError
from mim_jax.interop.name_map import NameMap, Rule, spread, to_ours, to_theirs
from mim_jax.interop.rules import PATCHES, dense, fused, norm, under

SIZES = {"p": 2, "q": 3, "c": 5}


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_linear_layers_are_transposed():
    weights = {"fc.weight": array(4, 3), "fc.bias": array(4)}
    tree = to_ours(NameMap(dense("fc", "a/b")), weights, {"a": {"b": {"kernel": array(3, 4), "bias": array(4)}}}, {})
    np.testing.assert_array_equal(tree["a"]["b"]["kernel"], weights["fc.weight"].T)
    np.testing.assert_array_equal(tree["a"]["b"]["bias"], weights["fc.bias"])


def test_patch_convolution_becomes_a_matrix_over_row_column_channel():
    """The same numbers as a convolution with kernel and stride of a patch, worked out pixel by pixel."""
    kernel, image = array(4, 5, 2, 3), array(2, 3, 5, seed=1)  # out x in x h x w, and one patch (h, w, channels)
    names = NameMap((Rule(("conv.weight",), ("kernel",), PATCHES),))
    matrix = to_ours(names, {"conv.weight": kernel}, {"kernel": array(30, 4)}, SIZES)["kernel"]
    expected = [
        sum(kernel[d, c, i, j] * image[i, j, c] for c in range(5) for i in range(2) for j in range(3)) for d in range(4)
    ]
    np.testing.assert_allclose(image.reshape(-1) @ matrix, expected, rtol=1e-4)
    back = to_theirs(names, {"kernel": matrix}, SIZES)
    np.testing.assert_array_equal(back["conv.weight"], kernel)


def test_a_patch_kernel_of_another_size_is_refused_though_the_count_fits():
    names = NameMap((Rule(("conv.weight",), ("kernel",), PATCHES),))
    with pytest.raises(VerifyError, match=r"'conv.weight' of shape \(4, 5, 3, 2\) is not 'd c p q' with p = 2, q = 3"):
        to_ours(names, {"conv.weight": array(4, 5, 3, 2)}, {"kernel": array(30, 4)}, SIZES)


def test_split_and_fused_arrays_in_both_directions():
    names = NameMap(fused(("q", "k", "v"), "qkv"))
    weights = {
        f"{n}.{kind}": array(*shape, seed=i)
        for i, n in enumerate("qkv")
        for kind, shape in (("weight", (3, 4)), ("bias", (3,)))
    }
    like = {"qkv": {"kernel": array(4, 9), "bias": array(9)}}
    tree = to_ours(names, weights, like, {})
    np.testing.assert_array_equal(tree["qkv"]["kernel"][:, 3:6], weights["k.weight"].T)
    np.testing.assert_array_equal(tree["qkv"]["bias"][6:], weights["v.bias"])
    back = to_theirs(names, tree, {})
    assert set(back) == set(weights)
    for name, value in back.items():
        np.testing.assert_array_equal(value, weights[name])


def test_their_fused_array_falls_into_several_of_ours():
    names = NameMap((Rule(("qkv.weight",), ("q", "k", "v"), "o i -> i o"),))
    fused_weight = array(6, 4)
    tree = to_ours(names, {"qkv.weight": fused_weight}, {n: array(4, 2) for n in "qkv"}, {})
    np.testing.assert_array_equal(tree["k"], fused_weight[2:4].T)
    np.testing.assert_array_equal(to_theirs(names, tree, {})["qkv.weight"], fused_weight)
    with pytest.raises(VerifyError, match="'qkv.weight' needs 'v' beside 'q'"):
        to_theirs(names, {"q": tree["q"], "k": tree["k"]}, {})


def test_numbers_in_names_are_carried_over():
    names = NameMap(norm("stages.{s}.blocks.{i}.norm", "stage_{s}/block_{i}"))
    weights = {
        f"stages.{s}.blocks.{i}.norm.{kind}": np.full(2, 10.0 * s + i)
        for s in (0, 11)
        for i in (2, 3)
        for kind in ("weight", "bias")
    }
    leaf = {"scale": array(2), "bias": array(2)}
    tree = to_ours(names, weights, {f"stage_{s}": {f"block_{i}": dict(leaf) for i in (2, 3)} for s in (0, 11)}, {})
    assert tree["stage_11"]["block_3"]["scale"][0] == 113.0
    assert to_theirs(names, tree, {}).keys() == weights.keys()


def test_everything_must_be_consumed_or_declared():
    rules = norm("norm", "norm")
    weights = {"norm.weight": array(2), "norm.bias": array(2)}
    like = {"norm": {"scale": array(2), "bias": array(2)}}
    with pytest.raises(VerifyError, match="nothing of ours takes the array 'table' of shape"):
        to_ours(NameMap(rules), {**weights, "table": array(1, 3)}, like, {})
    for declared in (NameMap(rules, computed={"table": "fixed"}), NameMap(rules, ignored={"^tab": "a counter"})):
        to_ours(declared, {**weights, "table": array(1, 3)}, like, {})
    with pytest.raises(VerifyError, match="the weights hold nothing for 'basis'"):
        to_ours(NameMap(rules), weights, {**like, "basis": array(3)}, {})
    tree = to_ours(NameMap(rules, absent={"^basis$": "ours alone"}), weights, {**like, "basis": array(3)}, {})
    assert set(to_theirs(NameMap(rules, absent={"^basis$": "ours alone"}), tree, {})) == set(weights)
    with pytest.raises(VerifyError, match="no rule names the leaf 'basis'"):
        to_theirs(NameMap(rules), tree, {})
    with pytest.raises(VerifyError, match="a model of this config has no 'norm/bias'"):
        to_ours(NameMap(rules), weights, {"norm": {"scale": array(2)}}, {})


def test_prefix_and_partial_trees():
    names = NameMap(under("params", (*norm("a", "a"), *norm("b", "b"))))
    part = {"params": {"b": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}}
    assert set(to_theirs(names, part, {})) == {"b.weight", "b.bias"}


def test_values_per_leaf_under_their_names():
    like = jax.eval_shape(lambda: {"q": jnp.zeros((2, 2)), "k": jnp.zeros((2, 2)), "n": {"scale": jnp.zeros(3)}})
    rules = (Rule(("qk",), ("q", "k"), "o i -> i o"), Rule(("n.weight",), ("n/scale",)))
    found = spread(NameMap(rules), like, {"q": 0.5, "k": 0.5, "n/scale": 0.0}, {})
    assert found == {"qk": 0.5, "n.weight": 0.0}
    with pytest.raises(VerifyError, match="parts of 'qk' take the different values"):
        spread(NameMap(rules), like, {"q": 0.5, "k": 0.0, "n/scale": 0.0}, {})
