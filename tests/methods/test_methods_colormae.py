"""ColorMAE: sizes, its masks, and banks of noise from files."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop import frozen, noise_bank
from mim_jax.interop.verify import verify
from mim_jax.methods.base import Progress
from mim_jax.methods.colormae import ColorMAE
from mim_jax.models.vit_config import variant


def test_reference_cases(shared):
    for folder in sorted((shared / "goldens" / "colormae").glob("*/case.json")):
        report = verify(folder.parent)
        assert report.ok and report.worst < 1e-6, [row for row in report.rows if not row.ok]


def test_parameter_count_and_hidden_patches():
    method = ColorMAE.from_config(variant("B/16"), {})
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == 111_655_680
    assert shapes.frozen["noise"].shape == (3072, 64, 64)
    mask = method.mask(jax.random.key(0), 6, {"noise": jax.random.uniform(jax.random.key(1), (4, 64, 64))})
    assert (mask.hidden.sum(1) == 147).all()


def test_a_bank_from_a_file(tmp_path):
    made = ColorMAE.tiny()
    path = noise_bank.make(made.noise, tmp_path)
    method = dataclasses.replace(made, noise=dataclasses.replace(made.noise, source=str(path)))
    variables = method.init(jax.random.key(0), {"image": jnp.zeros((2, 16, 16, 3))})
    found = frozen.read(method, variables.frozen)
    np.testing.assert_allclose(found["noise"], variables.frozen["noise"], atol=1e-6)
    batch = {"image": jnp.zeros((6, 16, 16, 3))}
    draws = jax.jit(method.draw)({}, {}, found, batch, jax.random.key(2), Progress.last())
    assert (draws["mask"].hidden.sum(1) == 12).all()
    other = dataclasses.replace(method, noise=dataclasses.replace(method.noise, count=5))
    with pytest.raises(ConfigError, match="set them to 4 and 16"):
        frozen.check(other)


def test_a_bank_smaller_than_the_grid_is_refused():
    with pytest.raises(ConfigError, match="method.noise.size 8 is smaller than the grid"):
        ColorMAE.from_config(variant("B/16"), dict(noise=dict(size=8)))
