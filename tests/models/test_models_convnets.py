"""ResNet and ConvNeXt on active cells, their layers for fine-tuning, and the decoder against torch."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.models.conv_config import ConvConfig, variant
from mim_jax.models.convnets import convnet
from mim_jax.models.spark_decoder import UnetBlock

SMALL = dict(image_size=(16, 24), width=(4, 6), depth=(1, 2), stem_width=4, stem_stride=2, layer_scale=0.5)
KINDS = [dict(block="bottleneck"), dict(arch="convnext", drop_path_rate=0.5)]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_change_no_map_and_holes_are_zero(kind):
    config = ConvConfig.from_section(SMALL | kind)
    images = jax.random.normal(jax.random.key(0), (3, 16, 24, 3))
    active = jax.random.bernoulli(jax.random.key(1), 0.5, (3, *config.grid))
    variables = jax.jit(convnet(config).init)(jax.random.key(2), images)
    # Biases and norms that are not at their start, so that they would show in the holes.
    variables = {**variables, "params": jax.tree.map(lambda p: p + 0.1, variables["params"])}
    noise = jax.random.uniform(jax.random.key(3), (3, 3)) if config.drop_path_rate else None
    run = jax.jit(lambda x: convnet(config).apply(variables, x, active, noise, mutable=["batch_stats"]))
    maps, moved = run(images)
    places = jnp.repeat(jnp.repeat(active, 4, 1), 4, 2)[..., None]
    others, other_moved = run(jnp.where(places, images, jnp.inf))
    jax.tree.map(np.testing.assert_array_equal, (maps, moved), (others, other_moved))
    assert [x.shape[1:] for x in maps] == [(8, 12, config.outputs[0]), (4, 6, config.outputs[1])]
    for x in maps:
        hole = ~np.repeat(np.repeat(active, x.shape[1] // 4, 1), x.shape[2] // 6, 2)
        assert not np.asarray(x)[hole].any() and np.asarray(x)[~hole].any()


def layer_of(config, name):
    depth, patterns = config.layers()
    return next((number for pattern, number in patterns if re.search(pattern, name)), depth + 1)


@pytest.mark.parametrize(
    "name, expected",
    [  # what the authors' fine-tuning code gives
        ("resnet50", {"conv1/": 0, "stage_0_block_2/": 1, "stage_1_block_1/": 2, "stage_1_block_2/": 3,
                      "stage_2_block_2/": 4, "stage_2_block_5/": 5, "stage_3_block_0/": 6, "fc/": 7}),
        ("resnet101", {"stage_2_block_22/": 11, "stage_3_block_2/": 12, "fc/": 13}),
        ("resnet152", {"stage_1_block_7/": 3, "stage_2_block_0/": 4, "stage_2_block_35/": 12, "stage_3_block_0/": 13}),
        ("resnet200", {"stage_1_block_23/": 7, "stage_2_block_0/": 8, "stage_3_block_0/": 17, "fc/": 18}),
        ("convnext_small", {"downsample_0/": 0, "stage_0_block_0/": 1, "downsample_1/": 2, "stage_1_block_2/": 2,
                            "downsample_2/": 3, "stage_2_block_2/": 3, "stage_2_block_26/": 11, "downsample_3/": 12,
                            "stage_3_block_2/": 12, "norm/": 13}),
    ],
)  # fmt: skip
def test_layers_of_fine_tuning(name, expected):
    config = ConvConfig.from_section(variant(name))
    assert {path: layer_of(config, path) for path in expected} == expected


def test_decoder_block_equals_torch():
    torch = pytest.importorskip("torch")
    block, x = UnetBlock(3), np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    variables = block.init(jax.random.key(0), jnp.asarray(x))
    weights = jax.tree.map(lambda p: np.array(p) + 0.05, variables["params"])
    found = block.apply({**variables, "params": weights}, jnp.asarray(x), mutable=["batch_stats"])[0]
    to = lambda array, *axes: torch.from_numpy(array.transpose(*axes).copy())  # noqa: E731
    functional = torch.nn.functional
    y = functional.conv_transpose2d(
        to(x, 0, 3, 1, 2), to(weights["up"]["kernel"], 3, 2, 0, 1), to(weights["up"]["bias"], 0), stride=2, padding=1
    )
    for number in (1, 2):
        y = functional.conv2d(y, to(weights[f"conv{number}"]["kernel"], 3, 2, 0, 1), padding=1)
        norm = weights[f"norm{number}"]
        y = functional.batch_norm(y, None, None, to(norm["scale"], 0), to(norm["bias"], 0), training=True)
        y = functional.relu6(y) if number == 1 else y
    np.testing.assert_allclose(found, y.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_dense_resnet_equals_transformers(torchvision_operators):
    """Basic blocks, whole images that are no squares, running statistics: what evaluation uses."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 2], layer_type="basic")
    ).eval()
    rng = np.random.default_rng(0)
    for name, value in theirs.state_dict().items():
        if value.ndim:
            noise = rng.normal(scale=0.3, size=tuple(value.shape))
            value.copy_(torch.from_numpy(np.abs(noise) + 0.5 if "running_var" in name else noise))
    images = rng.normal(size=(2, 16, 24, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True).hidden_states[1:]

    config = ConvConfig.from_section(dict(SMALL, block="basic", stem_stride=4))
    variables = jax.eval_shape(convnet(config).init, jax.random.key(0), jnp.asarray(images))
    weights = theirs.state_dict()

    def layer(conv):
        """Kernel of a convolution, scale and shift of its norm, running statistics."""
        prefix = f"{conv}.normalization"
        kernel = weights[f"{conv}.convolution.weight"].numpy().transpose(2, 3, 1, 0)
        affine = {"scale": weights[f"{prefix}.weight"].numpy(), "bias": weights[f"{prefix}.bias"].numpy()}
        stats = {"mean": weights[f"{prefix}.running_mean"].numpy(), "var": weights[f"{prefix}.running_var"].numpy()}
        return kernel, affine, stats

    kernel, affine, running = layer("embedder.embedder")
    params, stats = {"conv1": {"kernel": kernel}, "bn1": affine}, {"bn1": running}
    for stage, block in ((0, 0), (1, 0), (1, 1)):
        place, ours = f"encoder.stages.{stage}.layers.{block}", f"stage_{stage}_block_{block}"
        params[ours], stats[ours] = {}, {}
        parts = [(f"{place}.layer.0", "conv1", "bn1"), (f"{place}.layer.1", "conv2", "bn2")]
        if (stage, block) == (1, 0):
            parts.append((f"{place}.shortcut", "downsample_conv", "downsample_norm"))
        for name, conv, norm in parts:
            kernel, params[ours][norm], stats[ours][norm] = layer(name)
            params[ours][conv] = {"kernel": kernel}
    made = {"params": params, "batch_stats": stats}
    assert jax.tree.structure(made) == jax.tree.structure(dict(variables))
    found = convnet(config, running=True).apply(jax.tree.map(jnp.asarray, made), jnp.asarray(images))
    for ours, their in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, their.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "values, sentence",
    [
        (dict(image_size=40, depth=(1, 1, 1, 1)), "total stride of 32 .* image height of 40; .* works is 32"),
        (dict(width=(4, 8)), "one positive number for each stage"),
        (dict(stem_stride=3), "model.stem_stride '3' is not one of 1, 2, 4"),
        (dict(arch="convnext", block="basic"), "model.block 'basic' is not one of depthwise"),
        (dict(arch="resnext"), "model.arch 'resnext' is not one of resnet, convnext"),
        (dict(remat="dots"), "model.remat 'dots' is not one of none, full"),
    ],
)
def test_impossible_settings(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ConvConfig.from_section(values)


def test_an_unknown_size_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        variant("resnet-50")
