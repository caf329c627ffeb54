"""All tokens of images, for probes that look at more than one vector: kept where they fit, made anew where not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Num, Shaped

from mim_jax.data import train_batches
from mim_jax.evaluation.encoders import Encoder, pixel_vectors
from mim_jax.evaluation.features import even, fetch
from mim_jax.evaluation.protocol import Split, Task
from mim_jax.evaluation.views import one_view
from mim_jax.methods.base import Method, Variables
from mim_jax.nn.images import normalize
from mim_jax.training.sharding import batch_sharding, batch_shards, global_batch, make_mesh, on_every_device, replicated

GIB = 2**30


def tokens_of(
    method: Method | None,
    variables: Variables,
    images: Num[Array, "B H W C"],
    mean: tuple,
    std: tuple,
    cls: bool = True,
) -> Float[Array, "B T D"]:
    """Tokens after the final norm, cls first where there is one and `cls` asks for it; raw pixels are one token."""
    images = normalize(images, mean, std)
    if method is None:
        return pixel_vectors(images)[:, None]
    found = method.encode(variables.params, images, extra=variables.extra)
    patches = found.patches.astype(jnp.float32)
    return (
        patches
        if found.cls is None or not cls
        else jnp.concatenate([found.cls[:, None].astype(jnp.float32), patches], axis=1)
    )


class TokenEncoder:
    """A frozen encoder on all devices: images in, tokens out."""

    def __init__(self, encoder: Encoder, data: Any, mesh: Mesh | None = None, cls: bool = True):
        """`data`: section of the config. `mesh`: by default all devices with a share of the batch each. `cls`: whether
        the class token, where there is one, is among the tokens."""
        self.mesh = mesh or make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
        self.variables = on_every_device(encoder.variables, self.mesh)
        self.settings: dict[str, Any] = {"method": encoder.method, "mean": tuple(data.mean), "std": tuple(data.std)}
        self.settings["cls"] = cls
        self.image = (*tuple(next(iter(data.views.values())).size), data.channels)
        self.by_part = NamedSharding(self.mesh, PartitionSpec(None, ("data", "fsdp")))

    @property
    def shards(self) -> int:
        return batch_shards(self.mesh)

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """(T, D) of one image."""
        images = jax.ShapeDtypeStruct((1, *self.image), jnp.uint8)
        return jax.eval_shape(
            functools.partial(tokens_of, **self.settings), variables=self.variables, images=images
        ).shape[1:]

    def parts(self, images: Num[np.ndarray, "P b H W C"]) -> Float[Array, "P B T D"]:
        """Tokens of a batch in P parts, one part at a time; this process brings its share of the images of each part.

        Of the result, each device holds its share of each part.
        """
        return _encode_parts(self.variables, self.split(images), **self.settings, sharding=self.by_part)

    def split(self, local: Shaped[np.ndarray, "P b ..."]) -> Shaped[Array, "P B ..."]:
        """The global array of a batch in P parts from this process's share of each."""
        return jax.make_array_from_process_local_data(self.by_part, local)

    def batch(self, batch: dict[str, np.ndarray]) -> tuple[Float[Array, "B T D"], dict[str, Array]]:
        """Tokens of an evaluation batch, split over the devices, and the rest of the batch; padding is kept."""
        rest = global_batch(dict(even(self.mesh, batch)), self.mesh)
        images = rest.pop("image")
        return _encode(self.variables, images, **self.settings, sharding=batch_sharding(self.mesh)), rest


@functools.partial(jax.jit, static_argnames=("method", "mean", "std", "cls", "sharding"))
def _encode(variables, images, *, method, mean, std, cls, sharding):
    return jax.lax.with_sharding_constraint(tokens_of(method, variables, images, mean, std, cls), sharding)


@functools.partial(jax.jit, static_argnames=("method", "mean", "std", "cls", "sharding"))
def _encode_parts(variables, images, *, method, mean, std, cls, sharding):
    tokens = jax.lax.map(lambda part: tokens_of(method, variables, part, mean, std, cls), images)
    return jax.lax.with_sharding_constraint(tokens, sharding)


@functools.partial(jax.jit, static_argnames="sharding")
def _whole(arrays, *, sharding):
    return jax.lax.with_sharding_constraint(arrays, sharding)


class KeptTokens:
    """All tokens of a split in the memory of every host, in another order every epoch."""

    def __init__(self, encoder: TokenEncoder, task: Task, split: Split, dtype: Any):
        self.encoder, self.seed = encoder, task.seed
        rows = []
        for batch in task.open(task.data, split):
            tokens, rest = encoder.batch(batch)
            rows.append(fetch(_whole({"tokens": tokens.astype(dtype), **rest}, sharding=replicated(encoder.mesh))))
        self.tokens, self.labels = (np.concatenate([row[key] for row in rows]) for key in ("tokens", "label"))

    def epoch(self, number: int, parts: int, part: int, steps: int) -> Iterator[tuple[Array, Array]]:
        """`steps` batches of `parts` x `part` images: tokens (P, B, T, D) and labels (P, B)."""
        random = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
        order = random.permutation(len(self.labels))[: steps * parts * part].reshape(steps, parts, part)
        own = part // jax.process_count()
        order = order[:, :, jax.process_index() * own :][:, :, :own]
        for rows in order:
            yield self.encoder.split(self.tokens[rows]), self.encoder.split(self.labels[rows])


class MadeTokens:
    """Tokens made anew for every batch: where they do not fit, or where images are cropped and flipped at random."""

    def __init__(self, encoder: TokenEncoder, task: Task, scale: tuple[float, float] | None):
        """scale: share of the area of a random crop, flipped as in the run; None for the evaluation transform."""
        crop: dict[str, Any] = {"crop": "center", "flip": 0.0} if scale is None else {"scale": tuple(scale)}
        self.encoder, self.task, self.data = encoder, task, one_view(task.data, **crop)
        self._batches: Any = None

    def epoch(self, number: int, parts: int, part: int, steps: int) -> Iterator[tuple[Array, Array]]:
        """As for `KeptTokens`; crops and order depend on the seed, the epoch and the record alone."""
        if self._batches is None:
            settings = dict(process_index=jax.process_index(), process_count=jax.process_count())
            self._batches = train_batches(self.data, seed=self.task.seed, batch_size=parts * part, **settings)
        for _ in range(steps):
            batch = next(self._batches)
            images, labels = (batch[key].reshape(parts, -1, *batch[key].shape[1:]) for key in ("image", "label"))
            yield self.encoder.parts(images), self.encoder.split(labels.astype(np.int32))

    def close(self) -> None:
        """Ends threads and worker processes."""
        if self._batches is not None:
            self._batches.close()
