"""Protocol `robustness`: accuracy on sets that share the training images' labels: ImageNet-A, -R (Hendrycks et al.
2021), -Sketch (Wang et al. 2019), V2 (Recht et al. 2019), ReaL (Beyer et al. 2020), -C (Hendrycks & Dietterich 2019).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation.class_maps import class_map, read_classes, read_map, real_labels
from mim_jax.evaluation.head import Head, head_feature, head_of
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.named import named
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.measures.corruptions import ALEXNET, SEVERITIES, corruption_errors
from mim_jax.methods.base import Method

KEY = "evaluation.robustness"


@dataclasses.dataclass(frozen=True)
class Robustness(Protocol):
    """Settings as in `recipes.evaluation.robustness`; the classifier is that of `head_of`."""

    name: ClassVar[str] = "robustness"
    sets: tuple[str, ...] = ()
    classes: str = ""
    maps: tuple[str, ...] = ()
    restrict: bool = True
    real: str = ""
    corrupted: str = ""
    probe: Linear = dataclasses.field(default_factory=Linear)

    @classmethod
    def from_config(cls, evaluation: Any) -> Robustness:
        values, probe = evaluation["robustness"], Linear.from_config(evaluation)
        plain: dict[str, Any] = {key: values[key] for key in ("classes", "restrict", "real", "corrupted")}
        lists: dict[str, Any] = {key: tuple(map(str, values[key])) for key in ("sets", "maps")}
        made = cls(feature=probe.feature, probe=probe, **plain, **lists)
        sets, maps = (named(lists[key], f"{KEY}.{key}") for key in ("sets", "maps"))
        if not (sets or made.real or made.corrupted):
            raise ConfigError(
                f"{KEY} names no set; give {KEY}.sets, {KEY}.real or {KEY}.corrupted, such as "
                f"--config.{KEY}.sets=a=folder:data/imagenet-a"
            )
        for name, path in maps.items():
            if name not in sets:
                raise ConfigError(
                    f"{KEY}.maps names '{name}', which is none of {KEY}.sets ({', '.join(sets)}); name one of them"
                )
            read_map(path, f"{KEY}.maps")
        if made.classes:
            read_classes(made.classes, f"{KEY}.classes")
        if made.real:
            real_labels(made.real, ())
        if made.corrupted:
            corruption_folders(made.corrupted)
        return made

    def features(self, method: Method) -> tuple[str, ...]:
        return (head_feature(method, self.probe),)

    def run(self, task: Task) -> Numbers:
        head = head_of(task)
        names = read_classes(self.classes, f"{KEY}.classes") if self.classes else known_classes(task)
        if names and len(names) != len(head.bias):
            raise DataError(
                f"{self.classes or task.data.source} names {len(names)} classes, but the classifier has "
                f"{len(head.bias)}; {KEY}.classes must name them all, in the order of their labels"
            )
        metrics = {"top1": float((head.logits(task.held_out).argmax(1) == task.held_out.truth).mean())}
        counts, details = task.counts(), {}
        maps = named(self.maps, "")
        for name, spec in named(self.sets, "").items():
            mapping = read_map(maps[name], f"{KEY}.maps") if name in maps else None
            hits = self.hits(task, head, spec, names, mapping)
            metrics[f"{name}_top1"] = float(hits["among"].mean())
            details[name] = {"top1_all_classes": float(hits["all"].mean()), "classes": int(hits["classes"])}
            counts[name] = len(hits["all"])
        if self.real:
            metrics["real_top1"], counts["real"] = self.on_real(task, head)
        if self.corrupted:
            found = self.on_corrupted(task, head, names)
            metrics |= found.metrics
            counts |= found.counts
            details |= found.details
        return Numbers(metrics, counts, {"head": head.trained, "feature": head.feature}, details)

    def hits(
        self,
        task: Task,
        head: Head,
        spec: str,
        names: tuple[str, ...] | None,
        mapping: dict[str, str | int] | None,
        data: Any = None,
    ) -> dict[str, np.ndarray]:
        """Whether each image's best class is its own: `all`, of all classes; `among`, of those of the set where it has
        not all and `restrict` holds (the protocol of ImageNet-A and -R). `classes`: how many the set has.

        data: another `data` section than the task's.

        Raises:
            DataError: no labels, or classes that the training images do not have.
        """
        data = (data or task.data).copy_and_resolve_references()
        with data.unlocked():
            data.eval_source = spec
        batches = task.open(data, "eval")
        found = task.run_over(batches)
        if found.labels is None or found.labels.min() < 0:
            raise DataError(f"{spec} has images without labels, which this evaluation needs; name a labelled source")
        own = batches.source.classes
        labels = class_map(own, int(found.labels.max()) + 1, names, mapping, spec, len(head.bias))
        truth, logits = labels[found.labels], head.logits(found)
        # Without names of its own, a set has the classes that occur in it.
        present = np.unique(labels if own else truth)
        among = present if self.restrict else np.arange(logits.shape[1])
        return {
            "all": logits.argmax(axis=1) == truth,
            "among": among[logits[:, among].argmax(axis=1)] == truth,
            "classes": np.asarray(len(present)),
        }

    def on_real(self, task: Task, head: Head) -> tuple[float, int]:
        """Share of the held-out images whose best class is one of their reassessed labels, and of how many: images
        without any such label are left out."""
        found, source = task.held_out, task.open(task.data, "eval").source
        labels = real_labels(self.real, [source.name(int(i)) for i in found.index])
        best = head.logits(found).argmax(axis=1)
        hits = [b in row for b, row in zip(best.tolist(), labels, strict=True) if row]
        if not hits:
            raise DataError(f"{KEY}.real: '{self.real}' has no label for any of the {len(found)} held-out images")
        return float(np.mean(hits)), len(hits)

    def on_corrupted(self, task: Task, head: Head, names: tuple[str, ...] | None) -> Numbers:
        """Top-1 error at every severity of every corruption there is, CE of each, and mCE where all 15 are there.

        The images are stored as they are to be seen, so the shorter side goes to the model's size, not to
        `data.eval_resize` (the authors' own evaluation crops alone).
        """
        data = task.data.copy_and_resolve_references()
        with data.unlocked():
            data.eval_resize = min(next(iter(data.views.values())).size)
        errors: dict[str, Float[np.ndarray, " 5"]] = {}
        images = 0
        for corruption, folders in corruption_folders(self.corrupted).items():
            rows = [self.hits(task, head, f"folder:{folder}", names, None, data)["all"] for folder in folders]
            errors[corruption] = np.asarray([1 - row.mean() for row in rows])
            images += sum(map(len, rows))
        relative = corruption_errors(errors)
        metrics = {"corrupted_top1": 1 - float(np.mean([row.mean() for row in errors.values()]))}
        if len(relative) == len(ALEXNET):
            metrics["mce"] = float(np.mean(list(relative.values())))
        else:
            task.say(f"robustness: no mCE, because {self.corrupted} has {len(relative)} of the 15 corruptions")
        table = {name: {"error": row.tolist(), "ce": relative[name]} for name, row in errors.items()}
        return Numbers(metrics, {"corrupted": images}, {}, {"corruptions": table})


def known_classes(task: Task) -> tuple[str, ...] | None:
    """Class names of the training source by label, where it has any."""
    return task.open(task.data, "train").source.classes


def corruption_folders(root: str) -> dict[str, list[Path]]:
    """Folders of the five severities of every corruption below `root`.

    Raises:
        ConfigError: none of the 15 corruptions is there, or one lacks a severity.
    """
    found = {name: [Path(root) / name / str(level) for level in SEVERITIES] for name in ALEXNET}
    found = {name: folders for name, folders in found.items() if (Path(root) / name).is_dir()}
    if not found:
        raise ConfigError(
            f"{KEY}.corrupted = '{root}' holds none of ImageNet-C's folders, such as gaussian_noise/1; name the folder "
            "that they are in"
        )
    for folder in (folder for folders in found.values() for folder in folders):
        if not folder.is_dir():
            raise ConfigError(f"{KEY}.corrupted: '{folder}' is missing; a corruption needs severities 1 to 5")
    return found
