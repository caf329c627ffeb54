"""Protocol `analysis`: what an encoder has learned, in numbers and plots ("What Do Self-Supervised Vision
Transformers Learn?", Park et al., ICLR 2023)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation.analysis import plots
from mim_jax.evaluation.analysis.inside import look, numbered, transformer
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.measures.pca import pca_maps
from mim_jax.measures.similarity import cka_matrix
from mim_jax.measures.spectra import log_singular_values
from mim_jax.methods.base import Method, Variables
from mim_jax.training.runs import load_run
from mim_jax.training.sharding import make_mesh

KINDS = ("centred", "plain")


@dataclasses.dataclass(frozen=True)
class Analysis(Protocol):
    """Settings as in `recipes.evaluation.analysis`. Needs no labels."""

    name: ClassVar[str] = "analysis"
    random: ClassVar[bool] = False
    baselines: ClassVar[tuple[str, ...]] = ("untrained",)
    feature: str = "tokens"
    images: int = 64
    pooled_images: int = 1024
    batch_size: int = 16
    pca_images: int = 8
    centred: bool = True
    other: str = ""

    @classmethod
    def from_config(cls, evaluation: Any) -> Analysis:
        values = evaluation["analysis"]
        made = cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name != "feature"})
        if made.other and not (Path(made.other) / "config.json").exists():
            raise ConfigError(
                f"evaluation.analysis.other = '{made.other}' is not the folder of a run; give the --workdir of one"
            )
        return made

    def features(self, method: Method) -> tuple[str, ...]:
        del method
        return ()

    def run(self, task: Task) -> Numbers:
        method = task.encoder.method
        if method is None:
            raise ConfigError("protocol analysis looks inside an encoder, and raw pixels have none")
        if transformer(method) is None:
            task.say(
                "analysis: attention distance and mutual information are left out, because this encoder's tokens do "
                "not all attend to each other"
            )
        report, drawn = self.by_image(task, method)
        pooled = self.pooled(task, method, task.encoder.variables, task.data)
        if len(pooled[0]) < 3:
            raise DataError(f"analysis: {len(pooled[0])} held-out images are too few; it needs at least 3")
        report["pooled_images"] = len(pooled[0])
        for kind in KINDS:
            report[f"singular_images_{kind}"] = [log_singular_values(x, kind == "centred").tolist() for x in pooled]
        report["cka"] = cka_matrix(pooled).tolist()
        if self.other:
            report["cka_other"] = self.with_other(task, pooled).tolist()
        metrics, units = summary(report)
        counts = {"images": report["images"], "pooled_images": report["pooled_images"]}
        details: dict[str, Any] = {"by_depth": by_depth(report)}
        if task.workdir is not None and jax.process_index() == 0:
            details["files"] = self.write(task.workdir, report, drawn)
        return Numbers(metrics, counts, {}, details, units)

    def by_image(self, task: Task, method: Method) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Means over the images of what each shows; and of the first ones the pixels and the PCA maps."""
        batches = task.open(task.data, "eval", limit=self.limit(task, self.images))
        total: dict[str, np.ndarray] = {}
        images, patches, count = [], [], 0
        for found in look(
            method, task.encoder.variables, batches, task.data, mesh_of(task), self.batch_size, whole=True
        ):
            if count < self.pca_images:
                images.append(found["image"])
                patches.append(found["patches"])
            count += len(found["image"])
            for key, rows in averaged(found).items():
                # Sums, so that a smaller last batch does not count for more.
                total[key] = total.get(key, 0.0) + rows.sum(axis=0, dtype=np.float64)
        means = {key: value / count for key, value in total.items()}
        report: dict[str, Any] = {"images": count, **state_names(method, len(numbered(means, "amplitude")))}
        report |= {key: means[key].tolist() for key in ("distance", "information") if key in means}
        report["amplitude"] = [line.tolist() for line in numbered(means, "amplitude")]
        for kind in KINDS:
            report[f"singular_tokens_{kind}"] = [line.tolist() for line in numbered(means, kind)]
        shown = np.concatenate(patches)[: self.pca_images]
        maps = pca_maps(shown.reshape(len(shown), -1, shown.shape[-1]), shown.shape[1:3])
        return report, {"images": np.concatenate(images)[: self.pca_images], "maps": maps}

    def pooled(self, task: Task, method: Method, variables: Variables, data: Any) -> list[np.ndarray]:
        """Mean token of many images, one matrix for every state at the end of a block."""
        batches = task.open(data, "eval", limit=self.limit(task, self.pooled_images))
        found = look(method, variables, batches, data, mesh_of(task), self.batch_size, whole=False)
        return [np.concatenate(parts) for parts in zip(*(numbered(x, "pooled") for x in found), strict=True)]

    def limit(self, task: Task, images: int) -> int:
        return min(images, task.limit) if task.limit else images

    def with_other(self, task: Task, pooled: list[np.ndarray]) -> np.ndarray:
        """CKA of every state with every state of the other run, on the same records.

        Raises:
            DataError: the two runs do not see the same records.
        """
        run = load_run(self.other)
        with run.config.unlocked():
            run.config.data.source, run.config.data.eval_source = task.data.source, task.data.eval_source
        theirs = self.pooled(task, run.method, run.variables, run.config.data)
        if len(theirs[0]) != len(pooled[0]):
            raise DataError(
                f"evaluation.analysis.other: {self.other} reads {len(theirs[0])} of the images, this run "
                f"{len(pooled[0])}; CKA needs the same ones (data.on_error = skip may differ)"
            )
        return cka_matrix(pooled, theirs)

    def write(self, folder: Path, report: dict[str, Any], drawn: dict[str, Any]) -> list[str]:
        """analysis.json with every number, and the plots; returns their names."""
        folder.mkdir(parents=True, exist_ok=True)
        figures = plots.figures(report, drawn, self.centred)
        (folder / "analysis.json").write_text(json.dumps(report), encoding="utf-8")
        return ["analysis.json", *plots.write(figures, folder)]


def mesh_of(task: Task) -> Mesh:
    return task.mesh or make_mesh({"data": -1, "fsdp": 1, "tensor": 1})


def averaged(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Per image what is averaged over the images; of the tokens, their singular values: `centred N`, `plain N`."""
    kept = {key: x for key, x in found.items() if key.startswith(("distance", "information", "amplitude"))}
    for number, tokens in enumerate(numbered(found, "tokens")):
        for kind in KINDS:
            kept[f"{kind} {number}"] = np.stack([log_singular_values(x, kind == "centred") for x in tokens])
    return kept


def state_names(method: Method, states: int) -> dict[str, Any]:
    """What the states are (`amplitude` has one line for each), and the depths at which blocks end."""
    if transformer(method) is None:
        return {"states": [f"block {i}" for i in range(1, states + 1)], "depths": list(range(1, states + 1))}
    names = [f"block {i}{part}" for i in range(1, states // 2 + 1) for part in (", after attention", "")]
    return {"states": ["embedding", *names], "depths": list(range(states // 2 + 1))}


def summary(report: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The few numbers of the table, and their units."""
    metrics: dict[str, float] = {}
    if "distance" in report:
        distance, information = np.asarray(report["distance"]), np.asarray(report["information"])
        metrics |= {"attention_distance": distance.mean(), "attention_distance_last": distance[-1].mean()}
        metrics |= {"mutual_information": information.mean(), "mutual_information_last": information[-1].mean()}
    metrics["log_amplitude_last"] = report["amplitude"][-1][-1]
    metrics["cka_first_last"] = report["cka"][report["depths"].index(1)][-1]
    if "cka_other" in report:
        metrics["cka_other_last"] = report["cka_other"][-1][-1]
    units = {key: "px" if "distance" in key else "1" for key in metrics}
    return {key: float(value) for key, value in metrics.items()}, units


def by_depth(report: dict[str, Any]) -> dict[str, Any]:
    """Summary numbers: of states by `depths` (0: the embedding), of attention by block."""
    found = {"depths": report["depths"], "log_amplitude": [line[-1] for line in plots.at_depths(report)]}
    for key in ("distance", "information"):
        if key in report:
            found[key] = np.mean(report[key], axis=1).tolist()
    return found
