"""What a sampler hides against statistics of the original's generator: counts, rectangles, positions.

A system plugs in its sampler with one line of its `references`:

    SYSTEM = System(..., references=(mask_statistics.reference(draw),))

`draw(key, count, config)` makes `count` masks as the file's `config` asks, Bool[N, h, w] with True for hidden, or a
`Drawn` that also tells of rectangles. `blocks(exact=...)` is such a function for block-wise masks (BEiT, CAE,
MaskFeat). Every comparison is a test of the hypothesis that both samplers are one: chi-square for histograms, z for
the frequency of single positions, Hotelling's T-square for all positions together (they are correlated, so small
differences of many positions show there). A correct sampler fails a file with a probability of at most `LEVEL`,
divided evenly over its tests, and the seed is fixed, so a file that passed passes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Num, PRNGKeyArray, Shaped
from scipy import stats

from mim_jax.errors import VerifyError
from mim_jax.interop.compare import Row
from mim_jax.masking.block import block_trace

LEVEL = 1e-4
FEW = 5  # a bin that expects fewer masks than this is joined to its neighbour
ROUNDING = 1e-4  # of the frequencies in a file


@dataclass(frozen=True)
class Drawn:
    """hidden: (N, h, w). blocks: accepted rectangles per mask; first: patches of the first one; None if unknown."""

    hidden: Any
    blocks: Any = None
    first: Any = None


Draw = Callable[[PRNGKeyArray, int, Mapping[str, Any]], Any]
Reference = tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], list[Row]]]


@dataclass(frozen=True)
class Finding:
    """One comparison: a probability under the hypothesis that both are alike, or just whether they are equal."""

    name: str
    probability: float
    note: str
    exact: bool = False


def reference(draw: Draw) -> Reference:
    """The entry of `System.references` for a sampler."""
    return accepts, lambda content: rows(content, draw)


def accepts(content: Mapping[str, Any]) -> bool:
    """Whether a file holds runs with histograms of mask counts."""
    runs = content.get("runs")
    return isinstance(runs, list) and bool(runs) and all(isinstance(run, dict) and "masks" in run for run in runs)


def rows(content: Mapping[str, Any], draw: Draw) -> list[Row]:
    """One row per statistic of every run.

    Raises:
        VerifyError: the sampler makes other shapes than the file has.
    """
    found = []
    for i, run in enumerate(content["runs"]):
        key = jax.random.fold_in(jax.random.key(0), i)
        made = draw(key, int(run["masks"]), run["config"])
        drawn = made if isinstance(made, Drawn) else Drawn(made)
        prefix = f"run {i + 1}: " if len(content["runs"]) > 1 else ""
        found += [Finding(prefix + f.name, f.probability, f.note, f.exact) for f in run_findings(run, drawn)]
    return judged(found)


def judged(findings: list[Finding]) -> list[Row]:
    """Each finding as a row, at a level that holds for all of them together."""
    tests = sum(not finding.exact for finding in findings)
    level = LEVEL / max(tests, 1)
    out = []
    for f in findings:
        if f.exact:
            out.append(Row(f.name, f.probability == 1.0, note=f.note))
        else:
            out.append(
                Row(f.name, f.probability >= level, note=f"{f.note}; p {f.probability:.2g}, at least {level:.0e}")
            )
    return out


def run_findings(run: Mapping[str, Any], drawn: Drawn) -> list[Finding]:
    """The statistics of one run that the file holds."""
    hidden, config = np.asarray(drawn.hidden), run["config"]
    found: list[Finding] = []
    counts = {
        "masked count (count: masks)": ("hidden patches per mask", lambda: hidden.sum((1, 2))),
        "masked tokens per mask (count: masks)": ("hidden patches per mask", lambda: hidden.sum((1, 2))),
        "masked cells per mask (count: masks)": ("hidden cells per mask", lambda: cells(hidden, config).sum((1, 2))),
        "accepted blocks per mask (blocks: masks)": ("rectangles per mask", lambda: drawn.blocks),
        "size of the first block (patches: masks)": ("patches of the first rectangle", lambda: drawn.first),
    }
    for key, (name, values) in counts.items():
        if key in run and (made := values()) is not None:
            found.append(histogram(name, run[key], np.asarray(made)))
    if "tokens per side" in run:
        side = int(run["tokens per side"])
        found.append(_exact("patches per side", hidden.shape[1:] == (side, side), f"{hidden.shape[1:]}"))
    if run.get("cells are constant"):
        coarse, unit = cells(hidden, config), cell_side(config)
        same = np.array_equal(coarse.repeat(unit, 1).repeat(unit, 2), hidden)
        found.append(_exact("patches of a cell are alike", same, f"cells of {unit} x {unit} patches"))
    for key, array in (("per_position_frequency", hidden), ("per_cell_frequency", None)):
        if key in run:
            array = cells(hidden, config) if array is None else array
            found += positions("positions" if array is hidden else "cells", run[key], array, int(run["masks"]))
    return found


def histogram(name: str, expected: Mapping[str, int], found: Shaped[np.ndarray, "N"]) -> Finding:
    """A two-sample chi-square test of two histograms; where the original has a single value, equality.

    A value that the original never shows counts in the nearest bin, so the tails are compared too.
    """
    theirs = {int(value): int(number) for value, number in expected.items()}
    ours = dict(zip(*(a.tolist() for a in np.unique(found, return_counts=True)), strict=True))
    if len(theirs) == 1:
        return _exact(name, set(ours) == set(theirs), f"always {next(iter(theirs))}")
    values = sorted(set(theirs) | set(ours))
    table = np.array([[side.get(value, 0) for value in values] for side in (theirs, ours)], np.float64)
    table = pooled(table)
    probability = float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
    mean = sum(v * n for v, n in theirs.items()) / sum(theirs.values())
    return Finding(name, probability, f"mean {found.mean():.4g}, theirs {mean:.4g}, {table.shape[1]} bins")


def pooled(table: Float[np.ndarray, "2 K"]) -> Float[np.ndarray, "2 J"]:
    """Neighbouring bins joined until each expects at least `FEW` on either side."""
    share = table.sum(1).min() / table.sum()
    bins: list[np.ndarray] = [np.zeros(2)]
    for column in table.T:
        if bins[-1].sum() * share >= FEW:
            bins.append(np.zeros(2))
        bins[-1] = bins[-1] + column
    if len(bins) > 1 and bins[-1].sum() * share < FEW:
        last = bins.pop()
        bins[-1] = bins[-1] + last
    return np.stack(bins, axis=1)


def positions(
    name: str, expected: Any, found: Num[np.ndarray, "N h w"] | Bool[np.ndarray, "N h w"], number: int
) -> list[Finding]:
    """How often each position is hidden: one at a time, and all together.

    expected: frequencies (h, w) of `number` independent draws; found: our draws, or means over groups of draws that
    depend on each other, where the original has as many such groups as `number` says.

    Raises:
        VerifyError: another grid.
    """
    theirs = np.asarray(expected, np.float64)
    if theirs.shape != found.shape[1:]:
        raise VerifyError(f"{name}: a grid of {found.shape[1:]}, but the statistics are of {theirs.shape}")
    ours = found.reshape(len(found), -1).astype(np.float64)
    difference = ours.mean(0) - theirs.reshape(-1)
    covariance = np.atleast_2d(np.cov(ours, rowvar=False)) * (1 / len(ours) + 1 / number)
    # The files hold four digits; what is rounded off must not count in directions that hardly vary.
    covariance += np.eye(len(difference)) * ROUNDING**2 / 12
    error = np.sqrt(np.diag(covariance))
    largest = int(np.argmax(np.abs(difference) / error))
    z = float(difference[largest] / error[largest])
    one = min(1.0, 2 * float(stats.norm.sf(abs(z))) * len(error))
    where = tuple(int(i) for i in np.unravel_index(largest, theirs.shape))
    together = t_square(difference, covariance, len(ours))
    return [
        Finding(f"frequency of each of the {name}", one, f"largest difference {z:.1f} standard errors, at {where}"),
        Finding(f"frequencies of all {name} together", together, f"mean {ours.mean():.4f}, theirs {theirs.mean():.4f}"),
    ]


def t_square(difference: Float[np.ndarray, "P"], covariance: Float[np.ndarray, "P P"], draws: int) -> float:
    """Probability of a difference of means as large, by Hotelling's test; what never varies is left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values.max() * 1e-9
    rank = int(kept.sum())
    square = float((((vectors.T @ difference)[kept]) ** 2 / values[kept]).sum())
    return float(stats.f.sf(square * (draws - rank) / (rank * (draws - 1)), rank, draws - rank))


def cell_side(config: Mapping[str, Any]) -> int:
    """Patches per side of a cell that is hidden as a whole."""
    return int(config.get("mask_patch_size", 1)) // int(config.get("model_patch_size", 1))


def cells(hidden: Bool[np.ndarray, "N h w"], config: Mapping[str, Any]) -> Bool[np.ndarray, "N a b"]:
    """The first patch of each cell."""
    side = cell_side(config)
    return hidden[:, ::side, ::side]


def blocks(exact: bool = False, min_block: int = 16) -> Draw:
    """Block-wise masks as the `config` of BEiT's, CAE's and MaskFeat's files asks for them."""

    def draw(key: PRNGKeyArray, count: int, config: Mapping[str, Any]) -> Drawn:
        side = config["grid"]
        grid = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
        if config.get("max_num_patches"):
            raise VerifyError(f"rectangles of at most {config['max_num_patches']} patches are not drawn here")
        settings: dict[str, Any] = {
            "min_block": int(config.get("min_num_patches", min_block)),
            "min_aspect": float(config.get("min_aspect", 0.3)),
            "exact": exact,
        }
        number = int(config["num_masking_patches"])
        hidden, accepted, first = jax.jit(lambda k: block_trace(k, count, grid, number, **settings))(key)
        return Drawn(np.asarray(hidden).reshape(count, *grid), np.asarray(accepted), np.asarray(first))

    return draw


def _exact(name: str, same: bool, note: str) -> Finding:
    return Finding(name, float(same), note, exact=True)
