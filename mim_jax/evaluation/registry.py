"""The protocols by name. Adding one is a line here; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from mim_jax.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mim_jax.evaluation.protocol import Protocol


class Entry(NamedTuple):
    """Where a protocol is, and what it is in a few words."""

    module: str  # below mim_jax.evaluation
    kind: str
    words: str


PROTOCOLS = {
    "knn": Entry("knn", "KNN", "weighted k nearest neighbours"),
    "linear": Entry("linear", "Linear", "linear probe (MAE's: batch norm, LARS)"),
    "linear_sweep": Entry("linear_sweep", "LinearSweep", "linear probes with many learning rates at once (DINO, iBOT)"),
    "layers": Entry("layers", "Layers", "a linear probe after every block, and the curve over depth"),
    "few_shot": Entry("few_shot", "FewShot", "logistic regression on 1, 5, 10 images a class and 1 % (MSN)"),
    "attentive": Entry("attentive", "Attentive", "attentive probe: one learned query looks at all tokens"),
    "multi_query": Entry("multi_query", "MultiQuery", "efficient probing: many queries, no key projection"),
    "finetune": Entry("finetune", "Finetune", "the whole network trained on labels (BEiT, MAE)"),
    "classify": Entry("classify", "Classify", "accuracy of the run's own classifier, after fine-tuning or import"),
    "ood": Entry("ood", "OutOfDistribution", "out-of-distribution scores against other sets (evaluation.ood.sources)"),
    "robustness": Entry("robustness", "Robustness", "sets that share the labels, such as ImageNet-A, -R, -C and ReaL"),
    "occlusion": Entry("occlusion", "Occlusion", "accuracy with patches blacked out"),
    "patch_shuffle": Entry("occlusion", "PatchShuffle", "accuracy with the pieces of a grid in random order"),
    "segmentation": Entry(
        "dense.segmentation", "Segmentation", "mIoU of a linear or UPerNet head (evaluation.segmentation.source)"
    ),
    "depth": Entry("dense.depth", "Depth", "depth per pixel by a linear head (evaluation.depth.source)"),
    "analysis": Entry("analysis.protocol", "Analysis", "attention, Fourier and singular-value spectra, CKA, PCA maps"),
}


def protocol(name: str) -> type[Protocol]:
    """The protocol of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"'{name}' is not a protocol{nearest(name, PROTOCOLS)}")
    entry = PROTOCOLS[name]
    return getattr(importlib.import_module(f"mim_jax.evaluation.{entry.module}"), entry.kind)
