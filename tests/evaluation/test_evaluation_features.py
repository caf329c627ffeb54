"""Features come back whole, in order and the same on any number of devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import CheckpointError, ConfigError
from mim_jax.evaluation import encoders
from mim_jax.evaluation.features import Extractor, FeatureSet, check_finite
from mim_jax.methods.base import Features
from mim_jax.training.sharding import make_mesh, replicated

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def method(build):
    return build(image_size=(8, 12))[0]


@pytest.fixture(scope="module")
def variables(build):
    return build(image_size=(8, 12))[1]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(256, size=(21, 8, 12, 3), dtype=np.uint8)


def batches(images, size):
    """As the data package gives them: equal batches, the last one padded."""
    for start in range(0, len(images), size):
        rows = np.arange(start, start + size)
        kept = np.minimum(rows, len(images) - 1)
        yield {"image": images[kept], "label": kept % 5, "index": kept + 1000, "valid": rows < len(images)}


@pytest.mark.parametrize("size", [1, 6, 8, 32])
def test_rows_are_whole_and_in_order(method, variables, images, size):
    extract = Extractor(encoders.Encoder("pretrained", variables, method), ("cls", "pooled", "both"), MEAN, STD)
    found = extract(variables, batches(images, size))
    normal = (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
    expected = method.encode(variables.params, jnp.asarray(normal, jnp.float32))
    np.testing.assert_array_equal(found.index, np.arange(1000, 1021))
    np.testing.assert_array_equal(found.labels, np.arange(21) % 5)
    np.testing.assert_allclose(found.features["cls"], expected.cls, atol=2e-5)
    np.testing.assert_allclose(found.features["pooled"], expected.patches.mean(axis=1), atol=2e-5)
    np.testing.assert_array_equal(
        found.features["both"], np.concatenate([found.features["cls"], found.features["pooled"]], axis=1)
    )


def test_sharded_variables_give_the_same(method, variables, images):
    whole = Extractor(encoders.Encoder("a", variables, method), ("cls",), MEAN, STD)(variables, batches(images, 8))
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    placed = jax.device_put(variables, replicated(mesh))
    found = Extractor(encoders.Encoder("a", placed, method), ("cls",), MEAN, STD, mesh)(placed, batches(images, 7))
    np.testing.assert_allclose(found.features["cls"], whole.features["cls"], atol=2e-5)


def test_data_without_labels(method, variables, images):
    extract = Extractor(encoders.Encoder("pretrained", variables, method), ("pooled",), MEAN, STD)
    bare = ({key: batch[key] for key in ("image", "index")} for batch in batches(images[:16], 8))
    found = extract(variables, bare)
    assert found.labels is None and found.features["pooled"].shape == (16, 16)


def test_pixels_are_the_normalised_image_in_raster_order(images):
    encoder = encoders.raw_pixels()
    found = Extractor(encoder, ("cls", "pooled"), MEAN, STD)(encoder.variables, batches(images, 8))
    normal = (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
    assert list(found.features) == ["pixels"]
    np.testing.assert_allclose(found.features["pixels"], normal.reshape(21, -1), atol=1e-5)


def test_large_images_are_averaged_down():
    stripes = np.zeros((1, 64, 32, 1), np.float32)
    stripes[:, ::2] = 1.0
    vector = encoders.pixel_vectors(jnp.asarray(stripes))
    assert vector.shape == (1, 32 * 32)
    np.testing.assert_allclose(vector.reshape(32, 32)[1:-1], 0.5, atol=1e-6)


def test_cls_asked_of_an_encoder_without_one():
    features = Features(cls=None, patches=jnp.ones((1, 4, 3)), pooled=jnp.ones((1, 3)))
    for name in ("cls", "both"):
        with pytest.raises(ConfigError, match="no cls token; use 'pooled'"):
            encoders.select(features, name)


def test_an_unknown_feature_names_the_nearest():
    with pytest.raises(ConfigError, match=r"evaluation.knn.feature = 'poled' is not a feature; did you mean 'pooled'"):
        encoders.check_feature("poled", "evaluation.knn.feature")


def test_features_that_are_not_finite_are_named():
    vectors = np.ones((4, 2), np.float32)
    vectors[2:] = np.nan
    found = FeatureSet({"cls": vectors}, None, np.asarray([7, 8, 9, 10]))
    with pytest.raises(CheckpointError, match=r"pretrained encoder .* 2 of 4 images \(first: record 9\)"):
        check_finite(found, "pretrained")
