"""MultiMAE beyond the contract: the card's numbers, the division of tokens, the modalities, the losses, its cases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.format import formats
from mim_jax.interop.verify import verify
from mim_jax.losses.masked import mean_of_means
from mim_jax.masking.multimodal import mask_from_shares, multimodal_mask
from mim_jax.methods.base import Progress
from mim_jax.methods.multimae import MultiMAE
from mim_jax.methods.multimodal import weighed
from mim_jax.models.vit_config import variant
from mim_jax.targets.pseudo_modalities import colour_levels, colours, edges, luminance
from mim_jax.training.groups import group_table

GIVEN = {"source": "given", "stride": 4, "classes": 9, "embedding": 8, "loss": "cross_entropy"}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def whole():
    """The published network's method and shapes."""
    method = MultiMAE.from_config(variant("B/16", cls_token=False, positions="sincos_row", init="multimae"), {})
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    return method, jax.eval_shape(method.init, jax.random.key(0), batch).params


def test_parameter_counts(whole):
    _, params = whole
    assert count(params) == 97_917_072
    assert sum(count(params["encoder"][f"blocks_{i}"]) for i in range(12)) == 85_054_464
    decoders = {"rgb": 2_765_056, "norm_rgb": 2_765_056, "edges": 2_633_472, "colours": 3_114_576}
    assert {name: count(part) for name, part in params["decoders"].items()} == decoders


def test_tokens_without_decay(whole):
    method, params = whole
    table = group_table(method.param_groups(), params)
    assert not table["encoder/global_tokens"].decay and not table["decoders/rgb/mask_token"].decay
    # The originals name these in their list of exceptions, but by names that match nothing.
    assert table["encoder/class_embed_colours"].decay and table["decoders/rgb/modality_edges"].decay


def test_queries_keys_and_values_start_as_layers_of_their_own():
    method = MultiMAE.tiny()
    params = jax.jit(method.init)(jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 3))}).params
    kernel = params["encoder"]["blocks_0"]["attn"]["qkv"]["kernel"]
    assert float(jnp.abs(kernel).max()) > np.sqrt(6 / (16 + 48)) and float(jnp.abs(kernel).max()) <= np.sqrt(6 / 32)
    assert not params["decoders"]["rgb"]["mask_token"].any()


@pytest.mark.parametrize("concentration, subsets", [(1.0, False), (0.2, False), ((5.0, 1.0, 1.0), False), (1.0, True)])
def test_as_many_tokens_are_visible_as_there_shall_be(concentration, subsets):
    make = jax.jit(lambda key: multimodal_mask(key, 400, 3, 16, 9, concentration, subsets))
    mask = make(jax.random.key(0))
    hidden = np.asarray(mask.hidden(3))
    assert hidden.shape == (3, 400, 16) and ((~hidden).sum((0, 2)) == 9).all()
    for row in range(5):
        visible = np.flatnonzero(~hidden[:, row].reshape(-1))
        np.testing.assert_array_equal(np.sort(mask.visible[row]), visible)
    shares = (~hidden).sum(2) / 9
    if concentration == 1.0 and not subsets:
        np.testing.assert_allclose(shares.mean(1), 1 / 3, atol=0.05)
        np.testing.assert_allclose(shares.std(1), np.sqrt(1 / 18), atol=0.05)  # of one share of three, uniform
    if concentration == (5.0, 1.0, 1.0):
        np.testing.assert_allclose(shares.mean(1), [5 / 7, 1 / 7, 1 / 7], atol=0.05)
    if subsets:  # one modality alone in 3 of 7 choices
        assert abs(((shares > 0.95).any(0)).mean() - 3 / 7) < 0.12


def test_rounding_is_made_up_for_at_random():
    shares = jnp.asarray([[0.25, 0.25, 0.5], [1 / 6, 1 / 6, 2 / 3]])
    noise = jax.random.uniform(jax.random.key(0), (2, 3, 16))
    mask, counts = mask_from_shares(shares, noise, jax.random.uniform(jax.random.key(1), (2, 48)), 10)
    np.testing.assert_array_equal(counts, [[2, 2, 5], [2, 2, 7]])  # halves to the even number: 9 and 11
    kept = np.asarray((~mask.hidden(3)).sum(-1).T)
    assert (kept.sum(1) == 10).all() and (kept[0] >= [2, 2, 5]).all() and (kept[1] <= [2, 2, 7]).all()


def test_edges_against_numpy():
    image = np.asarray(jax.random.normal(jax.random.key(0), (1, 8, 12, 3)))
    grey = image[0] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luminance(jnp.asarray(image))[0, :, :, 0], grey, rtol=1e-5, atol=1e-6)
    patch = np.pad(grey[4:8, 4:8], 1, mode="edge")
    expected = np.zeros((4, 4))
    for r in range(4):
        for c in range(4):
            part = patch[r : r + 3, c : c + 3]
            across = (part[:, 2] - part[:, 0]) @ [1, 2, 1]
            down = (part[2] - part[0]) @ [1, 2, 1]
            expected[r, c] = np.hypot(across, down) / 8
    np.testing.assert_allclose(edges(jnp.asarray(image), (4, 4))[0, 4:8, 4:8, 0], expected, rtol=1e-4, atol=1e-6)


def test_a_patch_says_nothing_about_its_neighbours():
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    other = images.at[:, 4:].set(9.0)
    np.testing.assert_array_equal(edges(images, (4, 4))[:, :4], edges(other, (4, 4))[:, :4])
    np.testing.assert_array_equal(colours(images, 2, 27)[:, :2], colours(other, 2, 27)[:, :2])


@pytest.mark.parametrize("classes, channels, levels", [(133, 3, 5), (27, 3, 3), (9, 1, 9), (16, 5, 2), (8, 2, 2)])
def test_colours_fit_into_the_classes(classes, channels, levels):
    assert colour_levels(classes, channels) == levels
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, channels))
    found = np.asarray(colours(images, 1, classes))
    assert found.min() == 0 and found.max() == levels ** min(channels, 3) - 1
    flat = jnp.zeros((1, 4, 4, 3)).at[..., 0].set(3.0)
    assert (colours(flat, 2, 27) == 2 + 1 * 3 + 1 * 9).all()


def test_images_in_which_nothing_is_hidden_do_not_count():
    errors = jnp.asarray([[1.0, 3.0], [5.0, 7.0], [9.0, 9.0]])
    hidden = jnp.asarray([[True, True], [False, True], [False, False]])
    value, slope = jax.value_and_grad(mean_of_means)(errors, hidden)
    assert float(value) == (2 + 7) / 2
    np.testing.assert_array_equal(slope, [[0.25, 0.25], [0, 0.5], [0, 0]])
    value, slope = jax.value_and_grad(mean_of_means)(errors, jnp.zeros((3, 2), bool))
    assert float(value) == 0 and not slope.any()


def test_learned_variances():
    losses = {"rgb": jnp.asarray(2.0), "depth": jnp.asarray(0.0)}
    found = weighed(losses, jnp.asarray([0.5, 1.0]))
    np.testing.assert_allclose([found["rgb"], found["depth"]], [2 * np.exp(-0.5) + 0.5, 0.0], rtol=1e-6)
    method = MultiMAE.from_config({**SMALL}, {**METHOD, "uncertainty": True})
    batch = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
    params = jax.jit(method.init)(jax.random.key(1), batch).params
    grads = jax.grad(lambda p: method.loss(p, {}, {}, batch, jax.random.key(2), Progress.last())[0])(params)
    assert (grads["balance"]["log_variances"] != 0).all()


SMALL = dict(image_size=16, patch_size=8, width=16, depth=1, heads=2)
METHOD = dict(modalities={"rgb": {}}, inputs=("rgb",), outputs=("rgb",), visible_tokens=2, decoder_heads=2)


def test_a_label_map_that_the_batch_brings():
    settings = METHOD | dict(modalities={"rgb": {}, "maps": GIVEN}, inputs=("rgb", "maps"), outputs=("maps",))
    method = MultiMAE.from_config(SMALL, settings)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    batch = {"image": images, "maps": jax.random.randint(jax.random.key(1), (2, 4, 4), 0, 9)}
    params = jax.jit(method.init)(jax.random.key(1), batch).params
    loss, _ = method.loss(params, {}, {}, batch, jax.random.key(2), Progress.last())
    assert np.isfinite(loss) and loss > 0
    with pytest.raises(ConfigError, match="source 'given' needs an array 'maps' in the batch"):
        method.loss(params, {}, {}, {"image": images}, jax.random.key(2), Progress.last())


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"inputs": ("depth",)}, r"method.inputs \('depth',\) must name some of rgb, each once"),
        ({"outputs": ("rgb", "norm_depth")}, "must name some of rgb, norm_rgb, each once"),
        ({"visible_tokens": 4}, "method.visible_tokens 4 must be between 1 and 3 of 4 tokens"),
        ({"global_tokens": 0}, "method.global_tokens 0 must be at least 1"),
        ({"concentration": (1.0, 2.0)}, "must be positive, one for all or for each of 1 inputs"),
        ({"modalities": {"rgb": {"classes": 4}}}, "labels have at least two classes"),
        ({"modalities": {"rgb": {"source": "sobel"}}}, "method.modalities.rgb.source 'sobel' is not one of"),
        ({"modalities": {"rgb": {"stride": 2}}}, "method.modalities.rgb.stride 2 must be 1"),
        ({"modalities": {"rgb": {"chanels": 2}}}, "method.modalities.rgb.chanels"),
        ({"modalities": {"rgb": {}, "maps": GIVEN | {"stride": 3}}}, "stride 3 does not divide model.patch_size"),
        ({"modalities": {"rgb": {}, "maps": GIVEN}, "outputs": ("norm_maps",)}, "must name some of"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MultiMAE.from_config(SMALL, METHOD | settings)


@pytest.mark.parametrize("name", ["mask_sampling", "three_in_four_out"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "multimae" / name)
    assert not [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    assert report.worst < 2e-6


def test_an_encoder_of_several_modalities_is_no_other_librarys():
    for form in (*formats("hf"), *formats("timm")):
        if form.part == "encoder":
            assert "start a run from it (training.start_from)" in form.unheld(MultiMAE.tiny())
