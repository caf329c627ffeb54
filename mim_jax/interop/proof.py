"""Both sides on the same images: the largest difference of every block's output, of the tokens, of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mim_jax.errors import VerifyError
from mim_jax.interop.compare import Row, compare_arrays
from mim_jax.interop.format import CannotRun, Format
from mim_jax.interop.source import Source
from mim_jax.methods.base import Method, Variables

TOLERANCE = 2e-5  # of the largest magnitude of an array: float32 through some dozen layers, sums in another order
IMAGES = 2


@dataclass(frozen=True)
class Proof:
    """rows: one for every array that both sides have; reason: why nothing was compared, or ''."""

    rows: tuple[Row, ...] = ()
    reason: str = ""

    @property
    def worst(self) -> float:
        return max((row.error for row in self.rows if row.error is not None), default=0.0)

    def refuse(self, what: str) -> None:
        """Raises VerifyError where an array differs beyond the tolerance."""
        for row in self.rows:
            if not row.ok:
                found = row.note if row.error is None else f"{row.error:.1e} of its largest value"
                raise VerifyError(
                    f"{what}: the two sides differ in '{row.name}' ({found}, tolerated {row.tolerance:.0e}), so "
                    "nothing was written; check that the config is that of the weights"
                )


def probe_images(method: Method, count: int = IMAGES) -> Float[np.ndarray, "B H W C"]:
    """The images that both sides see: smooth noise of unit variance with a fixed seed, of the method's own size."""
    height, width, channels = method.views()["image"].array(1)[-3:]
    random = np.random.default_rng(20)
    coarse = random.standard_normal((count, -(-height // 4), -(-width // 4), channels))
    fine = random.standard_normal((count, height, width, channels))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    return ((smooth + 0.5 * fine) / 1.25**0.5).astype(np.float32)


def prove(form: Format, source: Source, method: Method, variables: Variables, tolerance: float = TOLERANCE) -> Proof:
    """Runs the library's own model of `source` and ours, in float32.

    A comparison is left out, with the reason, where the library is missing or the format has no code to run.
    """
    if form.theirs is None:
        return Proof(reason="the authors' code is no library that could be called")
    images = probe_images(method)
    try:
        expected = form.theirs(source)(images)
    except CannotRun as error:
        return Proof(reason=str(error))
    with jax.default_matmul_precision("highest"):
        found = form.compute(method, variables, images)
    return Proof(tuple(_rows(expected, found, tolerance)))


def compare_outputs(names: Sequence[str], expected: Sequence[Any], found: Sequence[Any], tolerance: float) -> Proof:
    """Outputs of two programs, in the same order."""
    return Proof(tuple(_rows(dict(zip(names, expected, strict=True)), dict(zip(names, found, strict=True)), tolerance)))


def _rows(expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float) -> Sequence[Row]:
    common = [name for name in expected if name in found]
    if not common:
        raise VerifyError(f"nothing to compare: theirs are {', '.join(expected)}, ours {', '.join(found)}")
    return [compare_arrays(name, np.asarray(expected[name]), np.asarray(found[name]), tolerance) for name in common]
