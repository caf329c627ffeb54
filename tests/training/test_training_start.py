"""Starting from another run's weights: what is copied, changed, left, and refused."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.methods.beit import BEiT
from mim_jax.methods.classifiers import encoder_section
from mim_jax.methods.convmae import ConvMAE
from mim_jax.methods.dmjd import DMJD
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.ibot import IBOT
from mim_jax.methods.mae import MAE
from mim_jax.methods.multimae import MultiMAE
from mim_jax.methods.simmim import SimMIM
from mim_jax.methods.spark import SparK
from mim_jax.nn.positions import resize_positions, sincos_2d
from mim_jax.nn.relative import relative_rows, resize_relative
from mim_jax.pretrain import pretrain
from mim_jax.training.groups import flat
from mim_jax.training.optimizer import build
from mim_jax.training.start import Source, Start
from mim_jax.training.state import init_state


def shapes_of(method):
    views = {name: jnp.zeros(shape.array(1)) for name, shape in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), views), views


def source(method, name="the source"):
    """A method with random weights, without compiling `init`."""
    random = np.random.default_rng(5)
    fill = lambda s: jnp.asarray(random.normal(size=s.shape), s.dtype)  # noqa: E731
    return Source(name, method, jax.tree.map(fill, shapes_of(method)[0]))


def state_of(method, ema=False):
    shapes, views = shapes_of(method)
    optimizer = build(recipes.adamw(), method.param_groups(), shapes.params)
    made = jax.eval_shape(partial(init_state, method, optimizer, ema=ema), jax.random.key(0), views)[0]
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), made)


def classifier(encoder, **changes):
    """Fine-tuning of an encoder, with changes of its model."""
    return Finetune.from_config(encoder_section(dataclasses.replace(encoder, **changes)), dict(classes=3))


def begin(method, given, what="encoder", ema=False):
    said: list[str] = []
    start = Start(method, lambda: given, what, said.append)
    start.check()
    return start(state_of(method, ema)), said


def test_mae_for_fine_tuning():
    """Everything is copied, fixed positions become the start of learned ones, the final norm and the decoder stay."""
    given = source(MAE.tiny())
    target = classifier(given.method.model)
    state, said = begin(target, given, ema=True)
    for path, value in flat(state.params["encoder"]).items():
        if path == "pos_embed":
            np.testing.assert_array_equal(value[0], sincos_2d((4, 4), 16))
        else:
            np.testing.assert_array_equal(value, flat(given.encoder)[path], err_msg=path)
    assert not state.params["head"]["kernel"].any()
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert len(said) == 1 and "left: norm" in said[0] and "new: fc_norm, head" in said[0]


def test_mae_on_a_larger_grid():
    given = source(MAE.tiny())
    state, said = begin(classifier(given.method.model, image_size=(24, 16)), given)
    expected = resize_positions(jnp.asarray(sincos_2d((4, 4), 16))[None], (4, 4), (6, 4), 1)
    np.testing.assert_allclose(state.params["encoder"]["pos_embed"], expected, rtol=1e-6)
    assert "positions resized from 4 x 4 to 6 x 4" in said[0]


def test_beits_shared_table_goes_to_every_block_and_another_grid():
    given = source(BEiT.tiny())
    model = given.method.model
    table = given.variables.params["encoder"]["relative_bias"]["table"]
    state, said = begin(classifier(model, relative_bias="per_block"), given)
    for block in ("blocks_0", "blocks_1"):
        np.testing.assert_array_equal(state.params["encoder"][block]["attn"]["relative_bias"]["table"], table)
    assert "copied to every block" in said[0] and "left: mask_token, norm" in said[0]
    state, said = begin(classifier(model, relative_bias="per_block", image_size=(24, 24)), given)
    found = state.params["encoder"]["blocks_1"]["attn"]["relative_bias"]["table"]
    np.testing.assert_allclose(found, resize_relative(np.asarray(table), (4, 4), (6, 6)), rtol=1e-5)
    assert "relative positions resized from 4 x 4 to 6 x 6" in said[0]


def test_tables_that_pretraining_did_not_have_start_at_zero():
    given = source(MAE.tiny())
    state, said = begin(classifier(given.method.model, relative_bias="per_block"), given)
    assert not state.params["encoder"]["blocks_0"]["attn"]["relative_bias"]["table"].any()
    assert "new: blocks_0, blocks_1, fc_norm, head" in said[0]


def test_swin_with_other_windows():
    given = source(SimMIM.tiny(arch="swin"))
    state, said = begin(classifier(given.method.model, image_size=(32, 32), window_size=4), given)
    path = "stages_1/blocks_1/attn/relative_bias/table"
    expected = resize_relative(np.asarray(flat(given.encoder)[path]), (2, 2), (4, 4), cls_token=False)
    np.testing.assert_allclose(flat(state.params["encoder"])[path], expected, rtol=1e-5)


def test_spark_brings_running_statistics():
    given = source(SparK.tiny())
    state, _ = begin(classifier(given.method.model), given)
    jax.tree.map(np.testing.assert_array_equal, state.extra["encoder"], given.variables.extra["encoder"])
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], given.variables.params["encoder"])


@pytest.mark.parametrize("kind", [ConvMAE, DMJD])
def test_convolutions_and_transformer_for_fine_tuning(kind):
    """Everything is copied but the fusion, the norm and the decoder; positions become learned ones; before training the
    classifier's tokens are those of the pretrained encoder."""
    given = source(kind.tiny())
    target = classifier(given.method.model)
    state, said = begin(target, given, ema=True)
    encoder = flat(state.params["encoder"])
    np.testing.assert_array_equal(encoder.pop("transformer/pos_embed")[0], sincos_2d((4, 4), 16, prefix=0))
    for path, value in encoder.items():
        np.testing.assert_array_equal(value, flat(given.encoder)[path], err_msg=path)
    left = set(flat(given.encoder)) - set(encoder)
    assert {path.partition("/")[0] for path in left} == {"norm", "fuse_0", "fuse_1"}
    assert "left: fuse_0, fuse_1, norm" in said[0] and "new: fc_norm, head" in said[0]
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    pretrained = given.method.encode(given.variables.params, images, layers=True).layers[-1]
    found = target.classify(state.params, images)
    np.testing.assert_allclose(found.tokens, pretrained, rtol=1e-5, atol=1e-5)
    assert np.isfinite(found.logits).all()


def test_convolutions_on_other_images():
    """A larger grid, another number of channels; another stem is refused; a fine-tuned run has nothing to fuse."""
    given = source(ConvMAE.tiny())
    state, said = begin(classifier(given.method.model, image_size=(24, 16), channels=1), given)
    table = jnp.asarray(sincos_2d((4, 4), 16, prefix=0))[None]
    found = flat(state.params["encoder"])
    np.testing.assert_allclose(
        found["transformer/pos_embed"], resize_positions(table, (4, 4), (6, 4), 0), rtol=1e-6, atol=1e-7
    )
    path = "embed_0/patch_embed/proj/kernel"
    by_channel = np.asarray(flat(given.encoder)[path]).reshape(4, 3, -1)
    np.testing.assert_allclose(found[path], by_channel.sum(1), rtol=1e-5)
    assert "embed_0 made of 3 channels for 1" in said[0] and "positions resized from 4 x 4 to 6 x 4" in said[0]
    with pytest.raises(ConfigError, match="the source has encoder/stage_1_block_1/.* for which"):
        begin(classifier(given.method.model, stem_depth=(1, 1)), given)
    tuned = source(classifier(given.method.model))
    with pytest.raises(ConfigError, match="has no encoder/fuse_0/"):
        begin(ConvMAE.tiny(), tuned)


def test_multimae_gives_the_part_that_serves_images():
    """Pixels' embedding, global token and blocks are a plain vision transformer, the class token behind the patches,
    which attention does not see."""
    given = source(MultiMAE.tiny())
    target = Finetune.from_config(encoder_section(given.method.image_model), dict(classes=3, pooling="all"))
    state, said = begin(target, given)
    mine, theirs = flat(state.params["encoder"]), flat(given.encoder)
    names = {"cls_token": "global_tokens"}
    for path, value in mine.items():
        name = names.get(path, path.replace("patch_embed/", "patch_embed_rgb/"))
        np.testing.assert_array_equal(value, theirs[name], err_msg=path)
    assert "new: fc_norm, head" in said[0]
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    pretrained = given.method.encode(given.variables.params, images, layers=True)
    found = target.classify(state.params, images)
    np.testing.assert_allclose(found.tokens[:, 0], pretrained.cls, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found.tokens[:, 1:], pretrained.patches, rtol=2e-5, atol=2e-5)
    assert np.isfinite(found.logits).all()


def test_multimae_goes_on_with_all_its_modalities_and_several_global_tokens_stay_in_it():
    given = source(MultiMAE.tiny())
    state, _ = begin(MultiMAE.tiny(), given)
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], given.encoder)
    several = source(dataclasses.replace(given.method, global_tokens=2))
    begin(several.method, several)
    with pytest.raises(ConfigError, match="method.global_tokens 2 is no plain vision transformer"):
        begin(MAE.tiny(), several)


def test_ibot_gives_its_teacher_and_starts_both_networks():
    given, mae = source(IBOT.tiny()), source(MAE.tiny(positions="learned"))
    state, _ = begin(classifier(given.method.model), given)
    teacher = flat(given.variables.extra["teacher"]["encoder"])
    np.testing.assert_array_equal(state.params["encoder"]["cls_token"], teacher["cls_token"])
    state, _ = begin(IBOT.tiny(), mae)
    for encoder in (state.params["encoder"], state.extra["teacher"]["encoder"]):
        np.testing.assert_array_equal(encoder["cls_token"], mae.encoder["cls_token"])


def test_all_of_a_run():
    given = source(MAE.tiny())
    state, _ = begin(MAE.tiny(), given, "all")
    jax.tree.map(np.testing.assert_array_equal, state.params, given.variables.params)
    with pytest.raises(ConfigError, match="'all' needs a run of ibot, but the source is one of mae"):
        begin(IBOT.tiny(), source(MAE.tiny(positions="learned")), "all")


def test_without_a_source_nothing_changes():
    method = MAE.tiny()
    state = state_of(method)
    assert Start(method, lambda: None)(state) is state


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(width=32), "encoder/.* has shape .* but the model of this run needs"),
        (dict(heads=4), "model.heads is 4, but the source has an encoder with 2"),
        (dict(depth=3), "the source has no encoder/blocks_2/.* which the model of this run needs"),
        (dict(depth=1), "the source has encoder/blocks_1/.* for which the model of this run has no place"),
        (dict(layer_scale=0.1), "the source has no encoder/blocks_0/gamma_1 and 3 more"),
        (dict(positions="none"), "model.positions is 'none', but the source's encoder was trained with 'sincos'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    given = source(MAE.tiny())
    with pytest.raises(ConfigError, match=words):
        begin(classifier(given.method.model, **changes), given)


def test_another_kind_of_encoder_is_refused():
    with pytest.raises(
        ConfigError, match="the source has an encoder of kind Conv, the model of this run is of kind Vit"
    ):
        begin(MAE.tiny(), source(SparK.tiny()))


def test_a_run_that_is_not_there_is_refused_before_anything_is_written(tmp_path, root):
    config = configs.load(str(root / "configs" / "mae" / "digits.py"), [f"training.start_from={tmp_path}/none"])
    with pytest.raises(ConfigError, match="training.start_from '.*none' is not a run"):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def beits_spread(side, new_side):
    """The search for the ratio as BEiT's fine-tuning script has it, in its own terms."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2.0
        if (1.0 - q ** (side // 2)) / (1.0 - q) > new_side // 2:
            high = q
        else:
            low = q
    distances, here = [], 1
    for i in range(side // 2):
        distances.append(here)
        here += q ** (i + 1)
    return [-d for d in reversed(distances)] + [0] + distances


@pytest.mark.parametrize("old, new", [((4, 4), (7, 7)), ((6, 4), (4, 9)), ((14, 14), (24, 24))])
@pytest.mark.parametrize("cls", [True, False])
def test_relative_tables_are_resized_as_beit_does(old, new, cls):
    table = np.random.default_rng(0).normal(size=(relative_rows(old, cls), 2)).astype(np.float32)
    sides, wide = ([2 * side - 1 for side in grid] for grid in (old, new))
    places = [beits_spread(s, w) for s, w in zip(sides, wide, strict=True)]
    wanted = [np.arange(-(w // 2), w // 2 + 0.1, 1.0) for w in wide]
    body = table[: sides[0] * sides[1]].reshape(*sides, 2)
    expected = np.stack([RectBivariateSpline(*places, body[..., k])(*wanted) for k in range(2)], -1)
    found = resize_relative(table, old, new, cls)
    assert len(found) == relative_rows(new, cls)
    np.testing.assert_allclose(found[: wide[0] * wide[1]], expected.reshape(-1, 2), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found[wide[0] * wide[1] :], table[sides[0] * sides[1] :])


def test_a_table_of_the_same_grid_stays_itself():
    table = np.random.default_rng(0).normal(size=(relative_rows((4, 4)), 2)).astype(np.float32)
    with pytest.raises(ConfigError, match="a table of 52 relative positions is not one of a grid"):
        resize_relative(table, (5, 5), (4, 4))
