"""Whether the labels of two splits serve for a probe."""

from __future__ import annotations

import numpy as np

from mim_jax.errors import DataError
from mim_jax.evaluation.features import FeatureSet


class LabelError(DataError):
    """Labels that are missing, or with which no probe can be made."""


def check_labels(
    train: FeatureSet, held_out: FeatureSet, source: str, eval_source: str, *, complete: bool = True
) -> int:
    """The number of classes: one more than the largest label.

    complete: whether every class of the held-out images must be among the training images; False for subsets, where
    an image of an unknown class counts as a miss.

    Raises:
        LabelError: no labels, negative labels, one class only, or a class that the training images lack.
    """
    eval_source = eval_source or source
    for found, where in ((train, source), (held_out, eval_source)):
        if found.labels is None:
            raise LabelError(f"{where} has no labels, which this evaluation needs; name a labelled source")
        if found.labels.min() < 0:
            record = found.index[found.labels.argmin()]
            raise LabelError(f"{where} has negative labels (first: record {record}); label those images or drop them")
    known = np.unique(train.truth)
    if len(known) < 2:
        raise LabelError(f"all {len(train)} training images of {source} have label {known[0]}; a probe needs two")
    unknown = np.setdiff1d(held_out.truth, known)
    if complete and len(unknown):
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise LabelError(
            f"{eval_source} has class {unknown[0]}{others}, which no training image of {source} has; "
            f"evaluate on images of the same classes"
        )
    return int(max(known.max(), held_out.truth.max())) + 1
