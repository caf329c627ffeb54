"""The encoder or classifier as a StableHLO program (`jax.export`), its weights beside it."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mim_jax import config as configs
from mim_jax.interop.portable.function import PartFunction
from mim_jax.interop.proof import Proof, compare_outputs, probe_images
from mim_jax.training.runs import Run

NAME = "StableHLO"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(folder: Path, run: Run, function: PartFunction) -> None:
    """model.stablehlo: a function of (weights by path, images) for any batch size, for CPU, GPU and TPU."""
    height, width, channels = run.method.views()["image"].array(1)[-3:]
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    weights = {name: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype) for name, x in function.weights.items()}
    program = export.export(jax.jit(function.__call__), platforms=PLATFORMS)(weights, images)
    (folder / "model.stablehlo").write_bytes(program.serialize())
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(x) for name, x in function.weights.items()}, folder / "weights.safetensors")
    configs.save(run.config, folder / "config.json")


def prove(folder: Path, run: Run, function: PartFunction, tolerance: float) -> Proof:
    """The program as it was written against the function that it was made of."""
    from safetensors.flax import load_file

    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    images = probe_images(run.method)
    found = program.call(load_file(folder / "weights.safetensors"), jnp.asarray(images))
    expected = jax.jit(function.__call__)(dict(function.weights), jnp.asarray(images))
    return compare_outputs(function.names, expected, found, tolerance)
