"""Features of whole images: batches from the host go through a jitted encoder on all devices, vectors come back."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from mim_jax.errors import CheckpointError, DataError
from mim_jax.evaluation.encoders import Encoder, vectors
from mim_jax.methods.base import Method, Variables
from mim_jax.nn.images import normalize
from mim_jax.training.sharding import batch_shards, global_batch, make_mesh, on_every_device, replicated

IN_FLIGHT = 2  # batches on the devices while the host decodes the next


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Vectors of one split: features by name, labels (None where the source has none), index of each record."""

    features: dict[str, Float[np.ndarray, "N F"]]
    labels: Int[np.ndarray, " N"] | None
    index: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def truth(self) -> Int[np.ndarray, " N"]:
        """The labels, for those who have made sure that there are any (`labels.check_labels`)."""
        assert self.labels is not None
        return self.labels


class Extractor:
    """Runs an encoder over any number of passes, with the variables given to each; compiled once per encoder kind."""

    def __init__(
        self,
        encoder: Encoder,
        names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        mesh: Mesh | None = None,
    ):
        """`names`: features to keep; `mean`, `std`: of pixels in [0, 1], per channel; `mesh`: that of the variables
        while a run is training, by default all devices with a share of the batch each."""
        self.names = tuple(dict.fromkeys(encoder.feature(name) for name in names))
        self.mesh = mesh or make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
        self._settings = {"method": encoder.method, "names": self.names, "mean": tuple(mean), "std": tuple(std)}

    def __call__(self, variables: Variables, batches: Iterable[dict[str, np.ndarray]]) -> FeatureSet:
        """Runs all `batches` (dict of image, index, and where there are any label and valid); drops padded rows.

        Each batch is split over the devices; each process brings its own share and every process receives the whole.
        """
        variables = self._placed(variables)
        waiting: collections.deque = collections.deque()
        rows: list[dict[str, np.ndarray]] = []
        for batch in batches:
            split = global_batch(dict(even(self.mesh, batch)), self.mesh)
            waiting.append(encode(variables, split, mesh=self.mesh, **self._settings))
            if len(waiting) > IN_FLIGHT:
                rows.append(fetch(waiting.popleft()))
        rows.extend(fetch(found) for found in waiting)
        if not rows:
            raise DataError("the evaluation data has no images; name others by --source and --eval-source")
        joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
        labels, index = joined.pop("label", None), joined.pop("index")
        return FeatureSet({name: joined[name] for name in self.names}, labels, index)

    def _placed(self, variables: Variables) -> Variables:
        """Host arrays and those of one device are first copied to all devices; what lies on the mesh stays."""
        shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(variables)]
        if all(isinstance(sharding, NamedSharding) and sharding.mesh == self.mesh for sharding in shardings):
            return variables
        return on_every_device(variables, self.mesh)


@functools.partial(jax.jit, static_argnames=("method", "names", "mean", "std", "mesh"))
def encode(
    variables: Variables,
    batch: dict[str, Array],
    *,
    method: Method | None,
    names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    mesh: Mesh,
) -> dict[str, Array]:
    """Features of one batch, whole on every device.

    Labels and indices travel with the images, so that rows stay together however the batch is split.
    """
    rest = {key: array for key, array in batch.items() if key != "image"}
    found = vectors(method, variables, normalize(batch["image"], mean, std), names)
    return jax.lax.with_sharding_constraint({**found, **rest}, replicated(mesh))


def even(mesh: Mesh, batch: dict[str, np.ndarray]) -> Iterable[tuple[str, np.ndarray]]:
    """The arrays of a batch, padded by repetition of the last row to a size that all devices share evenly."""
    count = len(batch["image"])
    valid = batch.get("valid", np.ones(count, bool))
    padding = -count % max(batch_shards(mesh) // jax.process_count(), 1)
    for key in ("image", "label", "index"):
        if batch.get(key) is not None:
            array = np.asarray(batch[key])
            array = array if key == "image" else array.astype(np.int32)
            yield key, np.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1)), mode="edge")
    yield "valid", np.pad(valid, (0, padding))


def fetch(found: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Host arrays of what is whole on every device, without the rows that `valid` calls padding."""
    valid = np.asarray(found.pop("valid"))
    return {key: np.asarray(array)[valid] for key, array in found.items()}


def check_finite(found: FeatureSet, encoder: str) -> None:
    """Raises CheckpointError that counts the images with NaN or infinite features and names the first record."""
    for name, features in found.features.items():
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise CheckpointError(
                f"the {encoder} encoder gives NaN or infinite '{name}' features for {bad.sum()} of {len(bad)} images "
                f"(first: record {found.index[bad.argmax()]}); evaluate an earlier checkpoint with step=N, "
                f"or check the run's loss"
            )
