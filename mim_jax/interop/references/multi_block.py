"""I-JEPA's multi-block masks against statistics of the original's collator: block sizes, lengths, positions.

A system plugs it in with `references=(multi_block.reference(),)`. Sizes and lengths are shared by a batch, so batches,
not images, are the independent draws; the level is that of `mask_statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import stats

from mim_jax.interop.compare import Row
from mim_jax.interop.references.mask_statistics import Finding, Reference, judged, positions
from mim_jax.masking.multi_block import MultiBlock, block_size, look_up

MORE = 2  # our batches for each of theirs: what remains uncertain is mostly theirs


def reference() -> Reference:
    """The entry of `System.references`."""
    return accepts, rows


def accepts(content: Mapping[str, Any]) -> bool:
    """Whether a file holds runs with block sizes and lengths per batch."""
    runs = content.get("runs")
    return isinstance(runs, list) and bool(runs) and all(isinstance(run, dict) and "block sizes" in run for run in runs)


def rows(content: Mapping[str, Any]) -> list[Row]:
    """One row per statistic of every run."""
    found = []
    for i, run in enumerate(content["runs"]):
        masking = sampler(run)
        prefix = f"run {i + 1}: " if len(content["runs"]) > 1 else ""
        made = [sizes(run, masking), *distributions(run, masking, i)]
        found += [Finding(prefix + f.name, f.probability, f.note, f.exact) for f in made]
    return judged(found)


def sampler(run: Mapping[str, Any]) -> MultiBlock:
    """Our sampler, as the collator's arguments ask for it."""
    config = run["config"]
    height, width = (int(side) // int(config["patch_size"]) for side in config["input_size"])
    return MultiBlock(
        grid=(height, width),
        context_scale=tuple(config["enc_mask_scale"]),
        target_scale=tuple(config["pred_mask_scale"]),
        aspect_ratio=tuple(config["aspect_ratio"]),
        context_blocks=int(config["nenc"]),
        target_blocks=int(config["npred"]),
        min_keep=int(config["min_keep"]),
        allow_overlap=bool(config["allow_overlap"]),
        group=int(run["batch"]),
    )


def sizes(run: Mapping[str, Any], masking: MultiBlock) -> Finding:
    """Heights and widths for given uniform numbers, in double precision and as looked up on the device."""
    table = run["block sizes"]["rows"]
    wrong = 0
    for _, first, second, *expected in table:
        target = block_size(first, masking.grid, masking.target_scale, masking.aspect_ratio)
        context = block_size(second, masking.grid, masking.context_scale, (1.0, 1.0))
        looked_up = [
            np.asarray(look_up(steps, jnp.asarray([uniform], jnp.float32)))[0].tolist()
            for steps, uniform in ((masking.target_sizes, first), (masking.context_sizes, second))
        ]
        wrong += not (list(expected) == [*target, *context] == sum(looked_up, []))
    return Finding("block sizes", float(wrong == 0), f"{wrong} of {len(table)} differ", exact=True)


def distributions(run: Mapping[str, Any], masking: MultiBlock, seed: int) -> list[Finding]:
    """Lengths per batch and how often each position is in a context or a target."""
    theirs = int(run["batches"])
    batch, ours = int(run["batch"]), MORE * theirs
    key = jax.random.fold_in(jax.random.key(0), seed)
    _, blocks = jax.jit(lambda k: masking.draw(k, ours * batch))(key)
    found = []
    for name, numbers, valid, frequency in (
        ("context", blocks.context, blocks.context_valid, "context_frequency per position"),
        ("target", blocks.target, blocks.target_valid, "target_frequency per position (one block)"),
    ):
        numbers, valid = (np.asarray(a).reshape(ours, -1, a.shape[-1]) for a in (numbers, valid))
        lengths = valid.sum(-1)
        same = bool((lengths == lengths[:, :1]).all())
        found.append(Finding(f"{name}s of a batch are as long", float(same), f"{ours} batches", exact=True))
        found += length_findings(name, run[f"{name} length per batch"], lengths[:, 0], theirs)
        shares = group_shares(numbers, valid, masking.grid)
        found += positions(f"{name} positions", run[frequency], shares, theirs)
    return found


def length_findings(name: str, expected: Mapping[str, Any], found: Int[np.ndarray, "G"], number: int) -> list[Finding]:
    """Mean and standard deviation of a length, each by a z-test; the extremes depend on the number of batches."""
    mean, deviation = float(found.mean()), float(found.std())
    error = np.sqrt(deviation**2 * (1 / len(found) + 1 / number))
    fourth = float(np.mean((found - mean) ** 4))
    spread = np.sqrt((fourth - deviation**4) * (1 / len(found) + 1 / number))
    z = [(mean - expected["mean"]) / error, (deviation**2 - expected["std"] ** 2) / spread]
    note = f"{mean:.2f} +- {deviation:.2f}, theirs {expected['mean']:.2f} +- {expected['std']:.2f}"
    return [
        Finding(f"{what} of the {name} length", 2 * float(stats.norm.sf(abs(value))), note)
        for what, value in zip(("mean", "deviation"), z, strict=True)
    ]


def group_shares(
    numbers: Int[np.ndarray, "G K L"], valid: Bool[np.ndarray, "G K L"], grid: tuple[int, int]
) -> Num[np.ndarray, "G h w"]:
    """The share of the blocks of each batch in which a position is."""
    groups, blocks, _ = numbers.shape
    cell = np.arange(groups)[:, None, None] * (grid[0] * grid[1]) + numbers
    counts: Float[np.ndarray, "..."] = np.bincount(cell[valid], minlength=groups * grid[0] * grid[1]) / blocks
    return counts.reshape(groups, *grid)
