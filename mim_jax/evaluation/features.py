"""Features of whole images: batches from the host go through a jitted encoder on all devices, vectors come back."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from mim_jax.errors import CheckpointError, DataError
from mim_jax.evaluation.encoders import Encoder
from mim_jax.methods.base import Variables
from mim_jax.nn.images import normalize

IN_FLIGHT = 2  # batches on the devices while the host decodes the next


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Vectors of one split: features by name, labels (None where the source has none), index of each record."""

    features: dict[str, Float[np.ndarray, "N F"]]
    labels: Int[np.ndarray, " N"] | None
    index: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.index)


class Extractor:
    """Compiles an encoder once and runs it over any number of passes, with the variables given to each pass."""

    def __init__(self, encoder: Encoder, names: Sequence[str], mean: Sequence[float], std: Sequence[float]):
        """`names`: features to keep; `mean`, `std`: of pixels in [0, 1], per channel."""
        self.names = tuple(dict.fromkeys(encoder.feature(name) for name in names))
        self._encoder, self._mean, self._std = encoder, tuple(mean), tuple(std)
        self._compiled: dict[Mesh, Any] = {}

    def __call__(self, variables: Variables, batches: Iterable[dict[str, np.ndarray]]) -> FeatureSet:
        """Runs all `batches` (dict of image, index, and where there are any label and valid); drops padded rows.

        The batch is split over the devices on which the variables lie, or else over all devices; each process brings
        its own share and every process receives the whole.
        """
        mesh, variables = _place(variables)
        waiting: collections.deque = collections.deque()
        rows: list[dict[str, np.ndarray]] = []
        for batch in batches:
            waiting.append(self._run(mesh, variables, batch))
            if len(waiting) > IN_FLIGHT:
                rows.append(_fetch(waiting.popleft()))
        rows.extend(_fetch(found) for found in waiting)
        if not rows:
            raise DataError("the evaluation data has no images")
        joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
        labels, index = joined.pop("label", None), joined.pop("index")
        return FeatureSet({name: joined[name] for name in self.names}, labels, index)

    def _run(self, mesh: Mesh, variables: Variables, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        if mesh not in self._compiled:
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._compiled[mesh] = jax.jit(self._encode, out_shardings=everywhere)
        sharding = NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)))
        split = {key: jax.make_array_from_process_local_data(sharding, array) for key, array in _even(mesh, batch)}
        return self._compiled[mesh](variables, split)

    def _encode(self, variables: Variables, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Labels and indices travel with the images, so that rows stay together however the batch is split."""
        images = normalize(batch.pop("image"), self._mean, self._std)
        return {**self._encoder.apply(variables, images, self.names), **batch}


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """Axes over which a batch is split; model-parallel devices see the same images."""
    return tuple(axis for axis in mesh.axis_names if axis != "tensor")


def _place(variables: Variables) -> tuple[Mesh, Variables]:
    """The mesh on which the variables lie; host arrays and those of one device are first copied to all devices."""
    for leaf in jax.tree.leaves(variables):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh, variables
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    return mesh, jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))


def _even(mesh: Mesh, batch: dict[str, np.ndarray]) -> Iterable[tuple[str, np.ndarray]]:
    """The arrays of a batch, padded by repetition of the last row to a size that all devices share evenly."""
    count = len(batch["image"])
    valid = batch.get("valid", np.ones(count, bool))
    ways = int(np.prod([mesh.shape[axis] for axis in _batch_axes(mesh)]))
    multiple = max(ways // jax.process_count(), 1)
    padding = -count % multiple
    for key in ("image", "label", "index"):
        if batch.get(key) is not None:
            array = np.asarray(batch[key])
            array = array if key == "image" else array.astype(np.int32)
            yield key, np.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1)), mode="edge")
    yield "valid", np.pad(valid, (0, padding))


def _fetch(found: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    valid = np.asarray(found.pop("valid"))
    return {key: np.asarray(array)[valid] for key, array in found.items()}


def check_finite(found: FeatureSet, encoder: str) -> None:
    """Raises CheckpointError that counts the images with NaN or infinite features and names the first record."""
    for name, vectors in found.features.items():
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise CheckpointError(
                f"the {encoder} encoder gives NaN or infinite '{name}' features for {bad.sum()} of {len(bad)} images "
                f"(first: record {found.index[bad.argmax()]}); evaluate an earlier checkpoint with step=N, "
                f"or check the run's loss"
            )


def check_labels(train: FeatureSet, held_out: FeatureSet, source: str, eval_source: str) -> int:
    """The number of classes: one more than the largest label.

    Raises:
        DataError: no labels, negative labels, one class only, or a class that the training images lack.
    """
    eval_source = eval_source or source
    for found, where in ((train, source), (held_out, eval_source)):
        if found.labels is None:
            raise DataError(f"{where} has no labels, which this evaluation needs; name a labelled source")
        if found.labels.min() < 0:
            raise DataError(f"{where} has negative labels (record {found.index[found.labels.argmin()]}); label or drop it")
    known = np.unique(train.labels)
    if len(known) < 2:
        raise DataError(f"all {len(train)} training images of {source} have the one label {known[0]}; a probe needs two")
    unknown = np.setdiff1d(held_out.labels, known)
    if len(unknown):
        raise DataError(
            f"{eval_source} has class {unknown[0]}{' and others' * (len(unknown) > 1)}, which no training image of "
            f"{source} has; evaluate on images of the same classes"
        )
    return int(known.max()) + 1
