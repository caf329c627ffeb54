"""What the metric of a row stands for: which protocol measures it, under which name, and how near is near enough.

The tolerances are rules of this project and no measurements. Runs of MAE's fine-tuning that differ in their seed alone
have standard deviations of 0.07 and 0.08 points (a published re-run, results/mae.json); probes of frozen features
depend more on details of the recipe, dense tasks more on the seed. A row may state its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Measure(NamedTuple):
    """How a metric is measured.

    slug: in ids. protocol: of `mim-jax eval`, '' where none measures it (`lacks` says why). key: among the metrics of
    its result; of several that begin so, the best counts. changes: of the config. factor: from the result's unit to the
    row's. tolerance: in units of the row. needs: settings that have to be given.
    """

    slug: str
    protocol: str = ""
    key: str = ""
    changes: tuple[str, ...] = ()
    factor: float = 100.0
    tolerance: float = 0.5
    needs: tuple[str, ...] = ()
    lacks: str = ""


DETECTION = "detection and segmentation of instances are not trained here"
FINETUNED = "it judges the fine-tuned model, and a row runs no protocol on what another has trained"
_SIZE = r"fine-tune top-1 at (\d+) px"
_BLOCKS = r"fine-tune top-1, last ([\d.]+|all) blocks"


def measure(metric: str) -> Measure:
    """What stands behind a metric's words; one without protocol where they are not known."""
    if metric in FIXED:
        return FIXED[metric]
    if found := re.fullmatch(_SIZE, metric):
        size = found[1]
        return Measure(f"finetune_{size}px", "finetune", "top1", (f"evaluation.finetune.image_size={size},{size}",),
                       tolerance=0.3)  # fmt: skip
    if found := re.fullmatch(_BLOCKS, metric):
        return _partial(found[1])
    if metric.startswith("COCO "):
        return Measure(slug(metric), lacks=DETECTION)
    if metric.startswith("ADE20K mIoU"):
        return Measure(slug(metric).replace("_miou", ""), lacks="only the plain 'ADE20K mIoU' has a recipe here")
    if metric.endswith("points gained"):
        return Measure(slug(metric), lacks="it is a difference between two runs; reproduce both and subtract")
    if metric.startswith(("IN-", "ImageNet-R")):
        return Measure(slug(metric), lacks=FINETUNED)
    if metric.startswith(("knn top1_k", "linear top1", "finetune top1")):  # rows that were measured here before
        return Measure(slug(metric.partition(" (")[0].replace("top1_", "").replace(" top1", "")), lacks="ours alone")
    return Measure(slug(metric), lacks=f"no protocol measures '{metric}'")


FIXED = {
    "fine-tune top-1": Measure("finetune", "finetune", "top1", tolerance=0.3),
    "fine-tune top-5": Measure("finetune_top5", "finetune", "top5", tolerance=0.3),
    "linear top-1": Measure("linear", "linear", "top1"),
    "attentive top-1": Measure("attentive", "attentive", "top1"),
    "kNN top-1": Measure("knn", "knn", "top1_k"),
    "ADE20K mIoU": Measure(
        "ade20k", "segmentation", "miou", tolerance=0.7,
        needs=("evaluation.segmentation.source", "evaluation.segmentation.recipe"),
    ),
}  # fmt: skip


def _partial(blocks: str) -> Measure:
    """MAE's figure 9: the last blocks are trained; with none it is the linear probe, with all plain fine-tuning."""
    name = f"finetune_last_{blocks}"
    if blocks == "0":
        return Measure(name, "linear", "top1")
    changes = () if blocks == "all" else (f"evaluation.finetune.trainable_blocks={float(blocks)}",)
    return Measure(name, "finetune", "top1", changes, tolerance=0.3)


def slug(words: str) -> str:
    """Words as part of an id."""
    return re.sub(r"[^a-z0-9.]+", "_", words.lower().replace("top-1", "top1").replace("%", "percent")).strip("_")
