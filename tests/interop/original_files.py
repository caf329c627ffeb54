"""What the tests of the authors' checkpoints share: configs of methods, files as training scripts write them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.interop.format import Format, formats
from mim_jax.methods.base import Method, Variables
from mim_jax.training.groups import flat


def original(name: str, part: str) -> Format:
    """A format of the authors' files."""
    return next(form for form in formats("original") if (form.name, form.part) == (name, part))


def shapes(method: Method) -> Variables:
    """What the method owns, as shapes; without what is frozen."""
    batch = {name: jnp.zeros(view.array(1)) for name, view in method.views().items()}
    made = jax.eval_shape(method.init, jax.random.key(0), batch)
    return Variables(params=made.params, extra=made.extra)


def noise(like: Variables) -> Variables:
    """Random leaves, no two alike; the encoder's copies in `extra` too."""
    random = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), like)


def torch_file(path: Path, content: Mapping[str, Any], **beside: Any) -> Path:
    """A file of torch with nested arrays as tensors; beside: what else it holds."""
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tensors(item) for key, item in value.items()}
        return torch.from_numpy(np.array(value))

    torch.save({**tensors(content), **beside}, path)
    return path


def training_file(path: Path, content: Mapping[str, Any]) -> Path:
    """A checkpoint with what training scripts store beside the weights."""
    import torch

    state = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    args = argparse.Namespace(model="some", lr=0.1)
    return torch_file(path, content, optimizer=state, epoch=7, scaler={"scale": 65536.0}, args=args)


def read_back(path: Path) -> dict[str, Any]:
    """The content of an exported file, nested as it is, tensors as arrays."""
    import torch

    def arrays(value: Any) -> Any:
        return {key: arrays(item) for key, item in value.items()} if isinstance(value, dict) else value.numpy()

    return arrays(torch.load(path, weights_only=True))


def assert_same(found: Any, expected: Any) -> None:
    """Two trees, equal bit by bit."""
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
