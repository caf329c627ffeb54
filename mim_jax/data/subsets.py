"""Label subsets: so many images of each class, or a share of all, the same ones for every method."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Int64

from mim_jax.data.randomness import permutation
from mim_jax.errors import DataError


def per_class(labels: Int[np.ndarray, " N"], count: int, draw: int = 0) -> Int64[np.ndarray, " M"]:
    """`count` random records of every class, ascending; draws 0, 1, ... are different subsets.

    A larger count of the same draw holds all records of a smaller one.

    Raises:
        DataError: a class has fewer records.
    """
    order = permutation(len(labels), seed=draw, epoch=0)
    found = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        if len(own) < count:
            raise DataError(
                f"class {label} has {len(own)} labelled images, fewer than the {count} per class asked for; lower it"
            )
        found.append(own[:count])
    return np.sort(np.concatenate(found))


def share(labels: Int[np.ndarray, " N"], fraction: float, draw: int = 0) -> Int64[np.ndarray, " M"]:
    """A `fraction` of the records of every class, at least one each, ascending; nested as `per_class` is."""
    order = permutation(len(labels), seed=draw, epoch=0)
    found = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        found.append(own[: max(1, round(len(own) * fraction))])
    return np.sort(np.concatenate(found))
