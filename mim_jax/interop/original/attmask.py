"""gkakogeorgiou/attmask: how its reference cases read. Its networks and checkpoints are iBOT's (see ibot.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result, Row
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.references.mask_statistics import histogram, judged, positions
from mim_jax.interop.system import System
from mim_jax.masking.attention_guided import AttentionGuided, most_attended
from mim_jax.models.attention_map import patch_attention

MODES = {f"attmask_{mode}": mode for mode in ("high", "hint", "low")}
STATISTICS = ("stat_num_masked_values", "stat_num_masked_freq", "stat_mask_rate_by_rank")


def sampler(case: Case) -> AttentionGuided:
    """The masks that a case asks for.

    Raises:
        VerifyError: a mode that is none of the authors'.
    """
    c = case.config
    if c["mode"] not in MODES:
        raise VerifyError(f"{case.folder}: config.mode '{c['mode']}' is none of {', '.join(MODES)}")
    shares = float(c["masking_prob"]), float(c.get("show_max", 0.0))
    return AttentionGuided(MODES[c["mode"]], float(c["ratio"]), 0.0, *shares)


def given_attention(case: Case) -> Float[Array, "B N"]:
    """The head mean of the class token's attention, of a size that the config agrees with."""
    c, weights = case.config, jnp.asarray(case.inputs["attention"])
    rows, columns = pair(c["grid"], "grid")
    expected = (2 * int(c["batch"]), int(c["heads"]), 1 + rows * columns, 1 + rows * columns)
    if weights.shape != expected:
        raise VerifyError(f"{case.folder}: attention of shape {weights.shape}, but the config says {expected}")
    return patch_attention(weights)


def revealing(case: Case, shape: tuple[int, ...], shown: int) -> Float[Array, "B N"]:
    """Noise by which just the patches that the case reveals are shown again."""
    if not shown:
        return jnp.zeros(shape)
    ids = jnp.asarray(case.inputs["revealed_ids"])
    if ids.shape != (shape[0], shown):
        raise VerifyError(f"{case.folder}: {ids.shape} revealed patches, but the config says {(shape[0], shown)}")
    return 1.0 - jax.nn.one_hot(ids, shape[1]).sum(1)


def run(case: Case) -> Result:
    """Masks from the draws that the case holds, and how often our own draws hide each rank against the original's."""
    c, guide, attention = case.config, sampler(case), given_attention(case)
    tokens, second = attention.shape[1], float(c.get("ratio_second", 0.0))
    # One ratio serves the whole batch, a second one the hints; products in the authors' order, for the last digit.
    counts = int(tokens * guide.ratio), 0
    arrays: dict[str, Any] = dict(
        cls_attention=attention,
        ranking=jnp.argsort(-attention, axis=1, stable=True),
        num_masked=counts[0],
    )
    if guide.mode == "hint":
        top = int(tokens * guide.hint_share)
        counts = counts[0], int(guide.hint_share * second * tokens)
        arrays |= dict(top_mask=most_attended(attention, top), num_top=top, num_reveal=counts[1])
    noise, uniforms = revealing(case, attention.shape, counts[1]), jnp.asarray(case.inputs["uniforms"])
    arrays["mask"] = guide.hidden(attention, uniforms, noise, *counts)
    whole = dataclasses.replace(guide, masked_share=1.0)
    arrays["mask_all_images"] = whole.hidden(attention, uniforms, noise, *counts)
    skipped = {name: "see the rows above" for name in STATISTICS}
    return Result(arrays, skipped=skipped, rows=statistics(case, guide, attention, counts))


def statistics(
    case: Case, guide: AttentionGuided, attention: Float[Array, "B N"], counts: tuple[int, int]
) -> list[Row]:
    """As many runs as the original's with draws of our own: patches hidden per crop, and how often each rank is."""
    runs, crops = int(case.config["stat_runs"]), len(attention)

    def draw(key):
        keys = jax.random.split(key)
        noise = jax.random.uniform(keys[1], attention.shape)
        return guide.hidden(attention, jax.random.uniform(keys[0], (crops,)), noise, *counts)

    hidden = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), runs)))
    order = np.argsort(-np.asarray(attention), axis=1, kind="stable")
    by_rank = np.take_along_axis(hidden, np.broadcast_to(order, hidden.shape), axis=2).reshape(runs * crops, 1, -1)
    values, shares, rates = (case.outputs[name] for name in STATISTICS)
    theirs = {str(value): round(share * runs * crops) for value, share in zip(values, shares, strict=True)}
    counted = histogram("hidden patches per crop", theirs, by_rank.sum((1, 2)))
    return judged([counted, *positions("ranks", rates[None], by_rank, runs * crops)])


SYSTEM = System(upstream="gkakogeorgiou/attmask", only=run)
