"""The encoder or classifier as an ONNX model, by jax2onnx; run by onnxruntime."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop.portable.function import PartFunction
from mim_jax.interop.proof import Proof, compare_outputs, probe_images
from mim_jax.training.runs import Run

NAME = "ONNX"
# jax2onnx asks for an older Orbax than ours, which it does not need here, so it is installed without its dependencies.
MEND = "pip install --no-deps jax2onnx && pip install onnx onnx-ir onnxruntime dm-pix equinox chex"


def write(folder: Path, run: Run, function: PartFunction) -> None:
    """model.onnx: images (batch, height, width, channels), float32, in; the named outputs out. Weights are inside.

    Raises:
        ConfigError: jax2onnx is missing.
    """
    jax2onnx: Any = _module("jax2onnx")
    onnx: Any = _module("onnx")
    shape = run.method.views()["image"].array(1)[-3:]
    weights = {name: jnp.asarray(leaf) for name, leaf in function.weights.items()}
    chatter = logging.getLogger("onnx_ir.serde")
    before, chatter.level = chatter.level, logging.ERROR
    try:
        model = jax2onnx.to_onnx(
            lambda images: function(weights, images), [jax.ShapeDtypeStruct(("B", *shape), jnp.float32)]
        )
    finally:
        chatter.level = before
    _rename(model, function.names)
    large = model.ByteSize() > 2**31 - 2**20  # what one protobuf file can hold
    onnx.save(model, folder / "model.onnx", save_as_external_data=large, location="model.onnx.data" if large else None)
    configs.save(run.config, folder / "config.json")


def prove(folder: Path, run: Run, function: PartFunction, tolerance: float) -> Proof:
    """onnxruntime on the model as it was written against ours."""
    images = probe_images(run.method)
    try:
        import onnxruntime
    except ImportError:
        return Proof(reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(list(function.names), {"images": images})
    weights = {name: jnp.asarray(leaf) for name, leaf in function.weights.items()}
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(function.__call__)(weights, jnp.asarray(images))
    return compare_outputs(function.names, expected, [np.asarray(array) for array in found], tolerance)


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--to onnx needs {error.name or name}, which is not installed: {MEND}") from error


def _rename(model: Any, outputs: tuple[str, ...]) -> None:
    """Gives the graph's input and outputs the names that people expect."""
    graph = model.graph
    names = {graph.input[0].name: "images"}
    names |= {node.name: name for node, name in zip(graph.output, outputs, strict=True)}
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for places in (node.input, node.output):
            for i, name in enumerate(places):
                places[i] = names.get(name, name)
