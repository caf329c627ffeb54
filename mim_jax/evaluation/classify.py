"""Protocol `classify`: accuracy of a run's own classifier, fine-tuned here or imported, on the held-out images."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Int

from mim_jax.data.sources import Source
from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation.class_maps import class_map, read_classes
from mim_jax.evaluation.encoders import shapes_of
from mim_jax.evaluation.head import head_of, scores
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.evaluation.robustness import known_classes
from mim_jax.methods.base import Method

KEY = "evaluation.classify"


@dataclasses.dataclass(frozen=True)
class Classify(Protocol):
    """Settings as in `recipes.evaluation.classify`. Nothing is learned, so no training images are needed."""

    name: ClassVar[str] = "classify"
    random: ClassVar[bool] = False
    baselines: ClassVar[tuple[str, ...]] = ()
    classes: str = ""

    @classmethod
    def from_config(cls, evaluation: Any) -> Classify:
        made = cls(classes=evaluation["classify"]["classes"])
        if made.classes:
            read_classes(made.classes, f"{KEY}.classes")
        return made

    def features(self, method: Method) -> tuple[str, ...]:
        """What the classifier receives.

        Raises:
            ConfigError: the method has none.
        """
        if jax.eval_shape(method.classifier, shapes_of(method).params) is None:
            raise ConfigError(
                f"a run of '{method.name}' has no classifier of its own; fine-tune it first (mim-jax eval RUN "
                "--finetune) and judge what comes out, or probe it (mim-jax eval RUN --linear)"
            )
        return (self.feature,)

    def run(self, task: Task) -> Numbers:
        """Judges the classifier.

        Raises:
            DataError: images without labels, or of other classes than the classifier's.
        """
        head, source = head_of(task), task.open(task.data, "eval").source
        total = len(head.bias)
        label_of = self.labels(task, source, total)  # before anything is computed
        found = task.held_out
        truth = label_of[found.truth]
        metrics, right = scores(head.logits(found), truth)
        images = np.bincount(truth, minlength=total)
        hits = np.bincount(truth[right], minlength=total)
        absent = int((images == 0).sum())
        if absent:
            task.say(
                f"{self.name}: {len(found)} held-out images show {total - absent} of the classifier's {total} classes; "
                "it chose among all of them (--robustness can leave out those that a set has not)"
            )
        details = {
            "top1_by_class": [int(h) / int(n) if n else None for h, n in zip(hits, images, strict=True)],
            "images_by_class": images.tolist(),
        }
        counts = {"eval": len(found), "classes": total, "classes_in_eval": total - absent}
        settings = {"head": head.trained, "feature": head.feature}
        return Numbers(metrics, counts, settings, details, {"loss": "1"})

    def labels(self, task: Task, source: Source, total: int) -> Int[np.ndarray, " L"]:
        """The classifier's number of each label of the held-out images' source.

        Where the names of the classes are known on both sides they decide: those of the file `classes`, else of the
        run's training images, where these are another source and still there. Else labels are taken as they are, and
        there must be as many as outputs, unless the file says that some are missing.

        Raises:
            DataError: no labels, another number of classes, or a class that the classifier does not have.
        """
        where, own = task.data.eval_source or task.data.source, source.classes
        check_labelled(source, where)
        names = read_classes(self.classes, f"{KEY}.classes") if self.classes else training_classes(task)
        if names and len(names) != total:
            raise DataError(
                f"{self.classes or task.data.source} names {len(names)} classes, but the classifier of this run has "
                f"{total}; {KEY}.classes must name them all, in the order of its outputs"
            )
        count = len(own) if own else int(source.labels().max()) + 1
        if count != total and not (self.classes or (own and names)):
            raise DataError(
                f"{where} has {count} classes, but the classifier of this run has {total}; name images of the same "
                f"classes (--eval-source), or its classes in their order ({KEY}.classes=FILE)"
            )
        return class_map(own, count, names, None, where, total) if names else np.arange(total)


def check_labelled(source: Source, where: str) -> None:
    """Raises DataError where a record of the source has no label."""
    labels = source.labels() if source.labelled else None
    if labels is None or not len(labels) or labels.min() < 0:
        raise DataError(f"{where} has images without labels, which this evaluation needs; name a labelled source")


def training_classes(task: Task) -> tuple[str, ...] | None:
    """Names of the classes of the run's training images, where these are another source that can be opened."""
    if not task.data.eval_source:
        return None
    try:
        return known_classes(task)
    except DataError:  # weights from elsewhere come without their training images
        return None
