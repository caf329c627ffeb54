"""Parameter groups against the authors' table and against rules written out by hand."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.base import ParamGroups
from mim_jax.training.groups import Group, flat, group_table, group_tree, layer_number

FINETUNE = ParamGroups(
    depth=12,
    no_decay=("pos_embed", "cls_token"),
    layers=((r"cls_token|pos_embed|patch_embed", 0), (r"encoder/blocks_(\d+)/", 1)),
)


def shapes(**leaves: tuple[int, ...]) -> dict:
    """A nested tree of shapes from 'a/b' names (with '__' for '/')."""
    tree: dict = {}
    for name, shape in leaves.items():
        *folders, last = name.split("__")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def classifier() -> dict:
    """The parameters of a fine-tuned ViT with 12 blocks, tiny."""
    leaves = {
        "encoder__cls_token": (1, 1, 4),
        "encoder__pos_embed": (1, 5, 4),
        "encoder__patch_embed__kernel": (12, 4),
        "encoder__patch_embed__bias": (4,),
        "fc_norm__scale": (4,),
        "fc_norm__bias": (4,),
        "head__kernel": (4, 3),
        "head__bias": (3,),
    }
    for i in range(12):
        for norm in ("norm1", "norm2"):
            leaves |= {f"encoder__blocks_{i}__{norm}__{end}": (4,) for end in ("scale", "bias")}
        for linear in ("attn__qkv", "attn__proj", "mlp__fc1", "mlp__fc2"):
            leaves |= {f"encoder__blocks_{i}__{linear}__kernel": (4, 4), f"encoder__blocks_{i}__{linear}__bias": (4,)}
    return shapes(**leaves)


def torch_name(path: str) -> str:
    """The authors' name of one of our parameters."""
    name = path.removeprefix("encoder/").replace("/", ".").replace("blocks_", "blocks.")
    name = name.replace("patch_embed.", "patch_embed.proj.")
    return name.replace(".kernel", ".weight").replace(".scale", ".weight")


def test_reference_groups(shared):
    reference = json.loads((shared / "goldens/mae/param_groups.json").read_text())
    table = group_table(FINETUNE, classifier(), layer_decay=reference["layer_decay"])
    got = {torch_name(path): group for path, group in table.items()}
    assert got.keys() == reference["groups"].keys()
    for name, wanted in reference["groups"].items():
        assert got[name].lr_scale == pytest.approx(wanted["lr_scale"], rel=1e-12), name
        assert got[name].decay == (wanted["weight_decay"] > 0), name


def test_reference_pretraining_decay(shared):
    """In pretraining only vectors are spared: the tokens, which have three dimensions, are not."""
    wanted = json.loads((shared / "goldens/mae/param_groups.json").read_text())["pretraining_weight_decay"]["groups"]

    def shape(name: str) -> tuple[int, ...]:
        if name.endswith("token"):
            return (1, 1, 4)
        return (4,) if name.endswith("bias") or "norm" in name else (4, 4)

    params = {name: jax.ShapeDtypeStruct(shape(name), jnp.float32) for name in wanted}
    table = group_table(ParamGroups(depth=2), params)
    assert {name: group.decay for name, group in table.items()} == {name: bool(decay) for name, decay in wanted.items()}
    assert all(group.lr_scale == 1.0 for group in table.values())


def test_layer_scales_by_hand():
    groups = ParamGroups(depth=2, layers=((r"embed", 0), (r"blocks_(\d+)/", 1)))
    params = shapes(embed__kernel=(2, 2), blocks_0__w=(2, 2), blocks_1__w=(2, 2), head__kernel=(2, 2))
    scales = {name: group.lr_scale for name, group in group_table(groups, params, layer_decay=0.5).items()}
    assert scales == {"embed/kernel": 0.125, "blocks_0/w": 0.25, "blocks_1/w": 0.5, "head/kernel": 1.0}


def test_first_matching_layer_counts():
    groups = ParamGroups(depth=4, layers=((r"blocks_(\d+)/special", 3), (r"blocks_(\d+)/", 1)))
    assert layer_number(groups, "blocks_1/special") == 4
    assert layer_number(groups, "blocks_1/w") == 2
    assert layer_number(groups, "head") == 5


def test_blocks_with_two_digits_are_not_confused():
    groups = ParamGroups(depth=12, layers=((r"blocks_(\d+)/", 1),))
    assert [layer_number(groups, f"blocks_{i}/w") for i in (1, 10, 11)] == [2, 11, 12]


def test_frozen_and_decay_patterns():
    groups = ParamGroups(depth=1, no_decay=("token",), frozen=("^encoder/",))
    table = group_table(groups, shapes(encoder__w=(2, 2), head__token=(1, 1, 2), head__w=(2, 2), head__b=(2,)))
    assert table["encoder/w"] == Group(1.0, True, True)
    assert table["head/token"] == Group(1.0, False, False)
    assert table["head/w"] == Group(1.0, True, False)
    assert table["head/b"] == Group(1.0, False, False)


def test_tree_has_the_shape_of_the_parameters():
    params = {"a": {"w": np.zeros((2, 2))}, "b": np.zeros(3)}
    tree = group_tree(ParamGroups(depth=0), params)
    assert tree["a"]["w"].decay and not tree["b"].decay
    assert flat(params).keys() == {"a/w", "b"}


def test_patterns_that_are_wrong_are_refused():
    with pytest.raises(ConfigError, match=r"'encodr' of frozen parameters matches none of .*encoder/w"):
        group_table(ParamGroups(depth=1, frozen=("encodr",)), shapes(encoder__w=(2, 2)))
    with pytest.raises(ConfigError, match=r"'\(' in the parameter groups is no regular expression"):
        group_table(ParamGroups(depth=1, no_decay=("(",)), shapes(encoder__w=(2, 2)))
