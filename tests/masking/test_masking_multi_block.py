"""Multi-block masks: sizes to the last bit, the shapes of blocks, retries, groups, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.multi_block import FINEST, MultiBlock, block_size, block_sizes, look_up

TARGET, ASPECT = (0.15, 0.2), (0.75, 1.5)


@lru_cache
def drawn(masking, batch, seed=0):
    """hidden (B, h, w), and context and target as lists of arrays of valid numbers, [image][block]."""
    mask, blocks = jax.jit(masking.draw, static_argnums=1)(jax.random.key(seed), batch)
    assert (
        blocks.context.shape
        == blocks.context_valid.shape
        == ((batch, masking.context_blocks, masking.context_capacity))
    )
    assert blocks.target.shape == blocks.target_valid.shape == (batch, masking.target_blocks, masking.target_capacity)
    lists = []
    for numbers, valid in ((blocks.context, blocks.context_valid), (blocks.target, blocks.target_valid)):
        numbers, valid = np.asarray(numbers), np.asarray(valid)
        # What fills up comes last and repeats the first number of its block.
        assert (np.diff(valid.astype(int), axis=-1) <= 0).all() and valid[..., 0].all()
        assert (np.where(valid, numbers, numbers[..., :1]) == numbers).all()
        lists.append([[n[v] for n, v in zip(*image, strict=True)] for image in zip(numbers, valid, strict=True)])
    return np.asarray(mask.hidden).reshape(batch, *masking.grid), *lists


def rectangle(numbers, grid):
    """(top, left, height, width) of a list of patches that must be a full rectangle in raster order."""
    rows, columns = np.divmod(numbers, grid[1])
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
    full = (np.arange(top, top + height)[:, None] * grid[1] + np.arange(left, left + width)).ravel()
    np.testing.assert_array_equal(numbers, full)
    return top, left, height, width


def test_sizes_of_the_original(shared):
    run = json.loads((shared / "goldens" / "ijepa" / "mask_statistics.json").read_text())["runs"][0]
    grid, table = tuple(run["grid"]), run["block sizes"]["rows"]
    first, second = (jnp.asarray([row[i] for row in table], jnp.float32) for i in (1, 2))
    sizes = (
        look_up(block_sizes(grid, TARGET, ASPECT), first),
        look_up(block_sizes(grid, (0.85, 1.0), (1.0, 1.0)), second),
    )
    np.testing.assert_array_equal(np.concatenate(sizes, axis=1), [row[3:] for row in table])
    for _, u, v, *expected in table:
        assert [*block_size(u, grid, TARGET, ASPECT), *block_size(v, grid, (0.85, 1.0), (1.0, 1.0))] == expected


@pytest.mark.parametrize(
    "grid, scale, aspect",
    [
        ((28, 28), TARGET, ASPECT),
        ((7, 11), (0.1, 0.9), (0.3, 3.0)),
        ((14, 14), (0.2, 0.2), ASPECT),
        ((8, 8), TARGET, (1, 1)),
    ],
)
def test_the_table_of_sizes_is_the_function_at_every_number(grid, scale, aspect):
    table = block_sizes(grid, scale, aspect)
    uniform = np.random.default_rng(0).integers(0, FINEST, 3000) / FINEST
    edges = np.concatenate([[s[0], s[0] - 1 / FINEST] for s in table[1:]] or [[0.0]])
    uniform = np.concatenate([uniform, edges, [0.0, 1 - 1 / FINEST]])
    expected = [block_size(float(u), grid, scale, aspect) for u in uniform]
    np.testing.assert_array_equal(look_up(table, jnp.asarray(uniform, jnp.float32)), expected)


MASKINGS = {
    "paper": MultiBlock((14, 14), group=4),
    "rectangle": MultiBlock((6, 10), min_keep=3, context_blocks=2, target_blocks=3),
    "overlap": MultiBlock((8, 8), min_keep=5, allow_overlap=True, group=3),
    "short": MultiBlock((14, 14), group=1, context_length=40),
}


@pytest.mark.parametrize("name", MASKINGS)
def test_blocks_are_what_they_should_be(name, batch=8):
    masking = MASKINGS[name]
    hidden, contexts, targets = drawn(masking, batch)
    group = np.arange(batch) // (masking.group or batch)
    seen = np.zeros((batch, hidden[0].size), bool)
    for image in range(batch):
        boxes = [rectangle(block, masking.grid) for block in targets[image]]
        assert len({box[2:] for box in boxes}) == 1
        assert boxes[0][2:] in {s[1:] for s in masking.target_sizes}
        for top, left, height, width in boxes:  # the original's excluded upper end
            assert top + height < masking.grid[0] and left + width < masking.grid[1]
        for block in contexts[image]:
            assert (np.diff(block) > 0).all() and len(block) > masking.min_keep
            assert len(block) <= (masking.context_length or hidden[0].size)
            apart = not np.isin(block, np.concatenate(targets[image])).any()
            assert apart or masking.allow_overlap
            seen[image, block] = True
    np.testing.assert_array_equal(hidden.reshape(batch, -1), ~seen)
    for number in set(group):
        inside = np.flatnonzero(group == number)
        assert len({len(block) for image in inside for block in contexts[image]}) == 1
        assert len({len(block) for image in inside for block in targets[image]}) == 1


def test_contexts_are_cut_to_the_shortest_of_their_group():
    """Sizes that do not depend on the uniform number: then groups change nothing but the lengths."""
    alone = MultiBlock((14, 14), context_scale=(0.9, 0.9), target_scale=(0.15, 0.15), aspect_ratio=(1.0, 1.0), group=1)
    _, whole, targets = drawn(alone, 8)
    _, cut, same_targets = drawn(dataclasses.replace(alone, group=4), 8)
    np.testing.assert_array_equal(targets, same_targets)
    lengths = [len(context[0]) for context in whole]
    assert len(set(lengths)) > 2
    for image in range(8):
        start = image // 4 * 4
        np.testing.assert_array_equal(cut[image][0], whole[image][0][: min(lengths[start : start + 4])])


def test_targets_are_given_up_from_the_last_after_twenty_failures():
    """Targets are rows of a 3 x 3 context: three of them leave nothing, two leave a row."""
    rows = MultiBlock((4, 4), target_scale=(0.2, 0.2), aspect_ratio=(0.34, 0.34), target_blocks=3, min_keep=2, group=1)
    assert rows.target_sizes[0][1:] == (1, 3) and rows.context_sizes[0][1:] == (3, 3)
    _, contexts, targets = drawn(rows, 64)
    emptied = [i for i in range(64) if len({block[0] for block in targets[i]}) == 3]
    assert len(emptied) > 5
    for image in emptied:
        np.testing.assert_array_equal(contexts[image][0], targets[image][2])
    # One target is enough to leave too little: all are given up.
    squares = MultiBlock((4, 4), target_scale=(0.4, 0.4), aspect_ratio=(1.5, 1.5), target_blocks=2, min_keep=5)
    assert squares.target_sizes[0][1:] == (3, 2)
    _, contexts, _ = drawn(squares, 4)
    assert all(len(context[0]) == squares.context_capacity == 9 for context in contexts)


def test_static_length_is_reached_but_never_short():
    """A context of 15 x 15 with four targets on one spot; and nothing is cut where the length is not given."""
    assert MultiBlock((16, 16)).context_capacity == 15 * 15 - 5 * 7
    assert MultiBlock((16, 16), allow_overlap=True).context_capacity == 15 * 15
    one = MultiBlock((6, 6), target_blocks=1, min_keep=3, group=1)
    lengths = {len(context[0]) for context in drawn(one, 256)[1]}
    assert max(lengths) == one.context_capacity


@pytest.mark.parametrize(
    "grid, settings, words",
    [
        ((1, 8), {}, "at least 2 x 2 patches"),
        ((8, 8), {}, r"min_keep 10 asks for more patches than the 9 .* method.target_scale .* try method.min_keep 8"),
        ((4, 4), dict(min_keep=0, target_scale=(0.01, 0.02)), "than the 0 that blocks .* raise method.target_scale"),
        ((14, 14), dict(target_scale=(0.15, 1.2)), "target_scale .* at most 1"),
        ((14, 14), dict(context_scale=(0.9, 0.8)), "context_scale .* must be"),
        ((14, 14), dict(aspect_ratio=(0.0, 1.5)), "aspect_ratio .* above 0"),
        ((14, 14), dict(context_scale=(0.2, 0.3)), "no more than the 40 of a target block"),
        ((14, 14), dict(target_blocks=0), "target_blocks 0 must be at least 1"),
        ((14, 14), dict(group=-1), "mask_group -1 must be at least 0"),
        ((14, 14), dict(context_length=7), "context_length 7 must be above method.min_keep 10"),
    ],
)
def test_what_cannot_be_drawn_is_refused(grid, settings, words):
    with pytest.raises(ConfigError, match=words) as error:
        MultiBlock(grid, **settings).check()
    assert "\n" not in str(error.value)
