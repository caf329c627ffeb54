"""What the analysis reads off an encoder, image by image, with the large arrays reduced on the device."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mim_jax.evaluation.features import even, fetch
from mim_jax.measures.attention import attention_distance, grid_distances, mutual_information
from mim_jax.measures.spectra import relative_log_amplitude
from mim_jax.methods.base import Features, Method, Variables
from mim_jax.models.attention_map import look_inside
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.images import normalize
from mim_jax.training.sharding import global_batch, on_every_device, replicated

Grid = tuple[int, int]


def transformer(method: Method) -> VitConfig | None:
    """The vision transformer that a method's encoder is; None for windows and convolutions."""
    return method.model if isinstance(method.model, VitConfig) else None


def layer_grid(last: Grid, tokens: int) -> Grid:
    """Grid of a layer with so many tokens, from that of the last layer: sides differ by one factor."""
    factor = math.sqrt(tokens / (last[0] * last[1]))
    return round(last[0] * factor), round(last[1] * factor)


def states_of(
    method: Method, variables: Variables, images: Float[Array, "B H W C"]
) -> tuple[list[tuple[Float[Array, "B _ _"], Grid]], tuple[Any, ...], Features]:
    """Patch tokens of every state with their grid, the attention of every block (none but for vision transformers),
    and the features that the method gives.

    States of a vision transformer: embedding, then after the attention and after the perceptron of each block; of
    others: the output of every block or stage.
    """
    features, model = method.encode(variables.params, images, extra=variables.extra, layers=True), transformer(method)
    if model is None:
        return [(x, layer_grid(features.grid, x.shape[1])) for x in features.layers], (), features
    inside = look_inside(model, method.encoder_params(variables.params, variables.extra), images)
    return [(x[:, model.prefix :], features.grid) for x in inside.states], inside.attention, features


@functools.partial(jax.jit, static_argnames=("method", "mean", "std", "mesh", "whole"))
def observe(
    variables: Variables,
    batch: dict[str, Array],
    *,
    method: Method,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    mesh: Mesh,
    whole: bool,
) -> dict[str, Array]:
    """Of each image: `pooled N`, the mean token of state N; with `whole` also `distance` and `information` (blocks,
    heads), `amplitude N` of every state, `tokens N` of the states at the end of a block, the `image` itself and the
    `patches` that the method gives, (rows, columns, width).
    """
    images = normalize(batch["image"], mean, std)
    states, attention, features = states_of(method, variables, images)
    step = 1 if transformer(method) is None else 2
    found = {key: array for key, array in batch.items() if key in ("index", "valid")}
    for number, (tokens, _) in enumerate(states[::step]):
        found[f"pooled {number}"] = tokens.astype(jnp.float32).mean(axis=1)
    if whole:
        found["image"] = batch["image"]
        found["patches"] = features.patches.astype(jnp.float32).reshape(len(images), *features.grid, -1)
        for number, (tokens, grid) in enumerate(states):
            found[f"amplitude {number}"] = relative_log_amplitude(tokens.astype(jnp.float32), grid)
        for number, (tokens, _) in enumerate(states[::step]):
            found[f"tokens {number}"] = tokens.astype(jnp.float32)
        if attention:
            model = transformer(method)
            assert model is not None
            distances = grid_distances(features.grid, model.patch_size)
            of_all = lambda f: jnp.stack([f(weights) for weights in attention], axis=1)  # noqa: E731
            found["distance"] = of_all(lambda w: attention_distance(w, distances, model.prefix))
            found["information"] = of_all(lambda w: mutual_information(w, model.prefix))
    return jax.lax.with_sharding_constraint(found, replicated(mesh))


def look(
    method: Method,
    variables: Variables,
    batches: Iterable[dict[str, np.ndarray]],
    data: Any,
    mesh: Mesh,
    size: int,
    whole: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """`observe` over all batches, at most `size` images of a process at a time, padding dropped.

    data: the section whose mean and deviation normalise the pixels.
    """
    variables = on_every_device(variables, mesh)
    settings = dict(method=method, mean=tuple(data.mean), std=tuple(data.std), mesh=mesh, whole=whole)
    for batch in batches:
        for start in range(0, len(batch["image"]), size):
            part = {key: array[start : start + size] for key, array in batch.items()}
            found = fetch(observe(variables, global_batch(dict(even(mesh, part)), mesh), **settings))
            if len(found["index"]):  # else all of the part was padding
                yield found


def numbered(found: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays `NAME 0`, `NAME 1`, ... in order."""
    return [found[f"{name} {i}"] for i in range(sum(key.startswith(f"{name} ") for key in found))]
