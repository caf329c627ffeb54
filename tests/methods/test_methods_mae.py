"""MAE beyond the contract: parameter counts of the card, the variants of its ablations, published rows."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.mae import MAE
from mim_jax.models.vit_config import variant
from mim_jax.nn.patches import patchify
from mim_jax.pretrain import check_all

COUNTS = {  # encoder, encoder and decoder: the card
    "B/16": (85_647_360, 111_655_680),
    "L/16": (303_099_904, 329_239_296),
    "H/14": (630_435_840, 656_613_964),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    mae = MAE.from_config(variant(name), {})
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    params = jax.eval_shape(mae.init, jax.random.key(0), batch).params
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert (size(params["encoder"]), size(params)) == COUNTS[name]


def run(**method):
    sections = (
        dict(image_size=16, patch_size=4, width=16, depth=1, heads=2),
        dict(decoder_width=8, decoder_depth=1, decoder_heads=2, pca_components=5),
    )
    mae = MAE.from_config(sections[0], sections[1] | method)
    batch = {"image": jax.random.normal(jax.random.key(0), (4, 16, 16, 3))}
    variables = mae.init(jax.random.key(1), batch)
    args = (variables.params, variables.extra, variables.frozen, batch, jax.random.key(2), Progress.last())
    loss, output = jax.jit(mae.loss)(*args)
    return mae, variables, batch, loss, output


@pytest.mark.parametrize("masking, ratio, hidden", [("block", 0.5, 8), ("block", 0.75, 12), ("grid", 0.75, 12)])
def test_maskings_of_table_1f(masking, ratio, hidden):
    mae, variables, _, loss, output = run(masking=masking, mask_ratio=ratio)
    assert np.isfinite(loss) and (output.trace["mask"].hidden.sum(1) == hidden).all()


def test_mask_tokens_in_the_encoder():
    _, variables, _, loss, output = run(encoder_mask_tokens=True)
    assert output.trace["latent"].shape == (4, 17, 16) and np.isfinite(loss)
    assert "mask_token" in variables.params["encoder"] and "mask_token" not in variables.params["decoder"]


def test_principal_components_as_target():
    mae, variables, batch, _, output = run(target="pca")
    basis = variables.frozen["basis"]
    expected = (patchify(batch["image"], (4, 4)) - basis.mean) @ basis.components
    np.testing.assert_allclose(output.trace["target"], expected, rtol=1e-4, atol=1e-5)
    assert output.trace["pred"].shape == (4, 16, 5)
    pictures = mae.show(variables.params, {}, variables.frozen, batch, jax.random.key(3))
    assert not pictures.true_patch_statistics


@pytest.mark.parametrize(
    "method, words",
    [
        (dict(masking="blok"), "masking 'blok' is not one of"),
        (dict(masking="grid", mask_ratio=0.5), "hides 0.75"),
        (dict(decoder_heads=3), "decoder_heads 3 does not divide method.decoder_width 8"),
        (dict(target="pca", pca_components=1000), "between 1 and 48"),
    ],
)
def test_impossible_settings_are_refused(method, words):
    with pytest.raises(ConfigError, match=words):
        run(**method)


def test_every_published_row_with_a_config_builds(root):
    rows = json.loads((root / "results" / "mae.json").read_text())["published"]
    specs = {row["config"] for row in rows if row["config"]}
    assert len(specs) > 30
    for spec in specs:
        config = configs.load(str(root / spec))
        assert check_all(config) == registry.build(config)
    for row in rows:
        assert {"paper", "table", "model", "data", "metric", "value", "source", "certainty"} <= set(row)
        assert row["config"] or row["note"]


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_small_configs_build(root, name):
    check_all(configs.load(str(root / "configs" / "mae" / f"{name}.py")))
