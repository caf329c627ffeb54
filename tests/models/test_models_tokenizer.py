"""Tokenizers: sizes, shapes, DALL-E's networks against the authors' numbers and an independent transcription."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.original.dall_e import NAMES, to_tree
from mim_jax.interop.verify import verify
from mim_jax.models.dalle import DalleDecoder, map_pixels, unmap_pixels
from mim_jax.models.tokenizer import (
    TokenizerConfig,
    check_grid,
    detokenize,
    token_colours,
    tokenize,
    tokenizer_flops,
    tokenizer_init,
)

SMALL = {
    "vq": dict(kind="vq", image_size=(16, 24), stride=4, vocabulary=13, hidden=8, code_width=4),
    "cosine": dict(kind="vq", image_size=(16, 24), stride=4, vocabulary=13, hidden=8, distance="cosine", channels=1),
    "dvae": dict(kind="dvae", image_size=(16, 24), stride=8, vocabulary=13, hidden=8, blocks=1),
    "dalle": dict(kind="dalle", image_size=(16, 24), vocabulary=13, hidden=8, source="folder"),
}
WIDE = {**SMALL["vq"], "vocabulary": 512, "hidden": 64}


def shapes(config):
    return jax.eval_shape(lambda key: tokenizer_init(config, key), jax.random.key(0))


def test_published_encoder_has_its_number_of_parameters():
    config = TokenizerConfig()
    assert config.grid == (14, 14) and config.tokens_per_image == 196
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(config))) == 53_786_240
    with_decoder = TokenizerConfig(source="folder")
    assert set(shapes(with_decoder)) == {"encoder", "decoder"}
    assert set(shapes(TokenizerConfig(source="encoder.safetensors"))) == {"encoder"}


def test_encoder_agrees_with_the_authors(shared):
    report = verify(shared / "goldens" / "beit" / "dvae_encoder")
    assert report.ok and report.worst < 3e-6
    assert {row.name for row in report.rows} == {"mapped", "logits", "tokens"}


@pytest.mark.parametrize("name", SMALL)
def test_tokens_and_images(name):
    config = TokenizerConfig.from_section(SMALL[name])
    params = jax.jit(lambda key: tokenizer_init(config, key))(jax.random.key(0))
    params = jax.tree.map(np.asarray, params)  # as they are read from a file
    images = jax.random.uniform(jax.random.key(1), (2, 16, 24, config.channels))
    tokens = jax.jit(lambda p, x: tokenize(config, p, x))(params, images)
    assert tokens.shape == (2, config.tokens_per_image) and tokens.dtype == jnp.int32
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 13
    draw = jax.jit(lambda t: detokenize(config, params, t))
    drawn = draw(tokens)
    assert drawn.shape == images.shape and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    # The first row of tokens is the top of the image.
    other = draw(tokens.at[:, 0].set((tokens[:, 0] + 1) % 13))
    change = jnp.abs(other - drawn).sum((0, 3))
    assert float(change[:4, :4].sum()) > 0


def test_ids_as_colours_where_there_is_no_decoder():
    config = TokenizerConfig(image_size=(16, 24), vocabulary=99, hidden=8)
    tokens = jnp.asarray([[0, 1, 2, 3, 4, 0]])
    drawn = detokenize(config, {"encoder": {}}, tokens)
    np.testing.assert_array_equal(drawn, token_colours(config, tokens))
    assert drawn.shape == (1, 16, 24, 3)
    np.testing.assert_array_equal(drawn[:, :8, :8], drawn[:, 8:, 16:])
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) == 5


@pytest.mark.parametrize("settings", [{}, WIDE, {**WIDE, "kind": "dvae"}])
def test_flops_agree_with_the_compiler(settings):
    config = TokenizerConfig.from_section(settings)
    images = jax.ShapeDtypeStruct((2, *config.image_size, config.channels), jnp.float32)
    lowered = jax.jit(lambda p, x: tokenize(config, p, x)).lower(shapes(config), images)
    assert lowered.cost_analysis()["flops"] / 2 == pytest.approx(tokenizer_flops(config), rel=0.02)


def test_pixel_map_and_back():
    pixels = jnp.linspace(0, 1, 12).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(map_pixels(pixels), 0.8 * pixels + 0.1, rtol=1e-6)
    np.testing.assert_allclose(unmap_pixels(map_pixels(pixels)), pixels, atol=1e-6)
    np.testing.assert_array_equal(unmap_pixels(jnp.asarray([[0.0, 1.0, 0.05]])), [[0.0, 1.0, 0.0]])


def decoder_weights(hidden, blocks, vocabulary, seed=0):
    """Noise under the names of the published decoder."""
    rng, weights, width = np.random.default_rng(seed), {}, hidden // 2

    def add(name, out, inside, side):
        weights[f"{name}.w"] = (rng.normal(size=(out, inside, side, side)) * inside**-0.5).astype(np.float32)
        weights[f"{name}.b"] = rng.normal(size=out).astype(np.float32)

    add("blocks.input", width, vocabulary, 1)
    for g in range(4):
        out = hidden * 2 ** (3 - g)
        for b in range(blocks):
            name = f"blocks.group_{g + 1}.block_{b + 1}"
            if width != out:
                add(f"{name}.id_path", out, width, 1)
            for c, (w, i, side) in enumerate(
                [(out // 4, width, 1), *[(out // 4, out // 4, 3)] * 2, (out, out // 4, 3)]
            ):
                add(f"{name}.res_path.conv_{c + 1}", w, i, side)
            width = out
    add("blocks.output.conv", 6, width, 1)
    return weights


def test_decoder_agrees_with_a_transcription_in_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    f = torch.nn.functional
    weights = decoder_weights(8, 2, 11)
    config = TokenizerConfig(image_size=(16, 24), vocabulary=11, hidden=8, source="folder")
    tree = to_tree(weights, shapes(config)["decoder"])
    tokens = np.random.default_rng(2).integers(0, 11, (2, 6))

    def conv(x, name):
        w = torch.from_numpy(weights[f"{name}.w"])
        return f.conv2d(x, w, torch.from_numpy(weights[f"{name}.b"]), padding=w.shape[-1] // 2)

    x = f.one_hot(torch.from_numpy(tokens).view(2, 2, 3), 11).permute(0, 3, 1, 2).float()
    x = conv(x, "blocks.input")
    for g in range(1, 5):
        for b in range(1, 3):
            name, y = f"blocks.group_{g}.block_{b}", x
            for c in range(1, 5):
                y = conv(torch.relu(y), f"{name}.res_path.conv_{c}")
            x = (conv(x, f"{name}.id_path") if f"{name}.id_path.w" in weights else x) + y / 64
        x = f.interpolate(x, scale_factor=2, mode="nearest") if g < 4 else x
    x = torch.sigmoid(conv(torch.relu(x), "blocks.output.conv")[:, :3])
    expected = ((x - 0.1) / 0.8).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    params = {"encoder": {}, "decoder": tree}
    drawn = jax.jit(lambda t: detokenize(config, params, t))(jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(drawn, expected, atol=2e-5)
    assert expected.std() > 0.05
    assert DalleDecoder(8).channels == 3 and len(NAMES.rules) == 8


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(kind="vqgan"), "method.tokenizer.kind 'vqgan' is not one of dalle, dvae, vq"),
        (dict(vocabulry=3), "method.tokenizer.vocabulry is not a setting of a tokenizer; did you mean 'vocabulary'"),
        (dict(stride=4), "stride 4: tokens of kind 'dalle' have stride 8"),
        (dict(kind="vq", stride=6), "stride 6 must be a power of 2"),
        (dict(image_size=100), r"image_size \(100, 100\) is not divisible by method.tokenizer.stride 8; .*: 96"),
        (dict(hidden=6), "hidden 6 must be a positive multiple of 4"),
        (dict(kind="vq", distance="l3"), "distance 'l3' is not one of plain, cosine"),
        (dict(kind="vq", vocabulary=1), "vocabulary at least 2"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TokenizerConfig.from_section(settings)


def test_another_grid_than_the_encoders_is_refused():
    config = TokenizerConfig.from_section(dict(kind="vq", image_size=32, stride=4))
    check_grid(config, (8, 8))
    with pytest.raises(ConfigError, match=r"8 x 8 tokens .* 14 x 14 patches; set .*image_size .* to \(56, 56\)"):
        check_grid(config, (14, 14))
