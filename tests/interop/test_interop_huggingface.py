"""MAE against transformers' ViTMAEForPreTraining: another implementation, other names, split query, key and value."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from safetensors.numpy import load_file  # noqa: E402

from mim_jax.errors import VerifyError  # noqa: E402
from mim_jax.interop.huggingface.vit_mae import SPELLINGS, name_map, spelling_of  # noqa: E402
from mim_jax.interop.name_map import to_ours, to_theirs  # noqa: E402
from mim_jax.masking.mask import mask_from_noise  # noqa: E402
from mim_jax.masking.random import visible_count  # noqa: E402
from mim_jax.methods.base import Progress  # noqa: E402
from mim_jax.methods.mae import MAE  # noqa: E402
from mim_jax.nn.positions import sincos_2d  # noqa: E402

IMAGE, PATCH, WIDTH, DECODER, RATIO = 24, 4, 24, 16, 0.7
SIZES = {"p": PATCH, "q": PATCH, "c": 3}


@pytest.fixture(scope="module")
def model(torchvision_operators):
    """Theirs, with noise on every parameter so that nothing is exactly 0 or 1."""
    config = transformers.ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=2 * WIDTH,
        image_size=IMAGE,
        patch_size=PATCH,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=2 * DECODER,
        mask_ratio=RATIO,
        norm_pix_loss=True,
        layer_norm_eps=1e-12,
        attn_implementation="eager",
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        # Checkpoints hold these tables; a model that is built without one may have zeros here.
        grid = (IMAGE // PATCH, IMAGE // PATCH)
        theirs.vit.embeddings.position_embeddings.copy_(torch.tensor(sincos_2d(grid, WIDTH)))
        theirs.decoder.decoder_pos_embed.copy_(torch.tensor(sincos_2d(grid, DECODER)))
    return theirs


@pytest.fixture(scope="module")
def ours(model):
    section = dict(image_size=IMAGE, patch_size=PATCH, width=WIDTH, depth=2, heads=3, mlp_ratio=2.0)
    section["layer_norm_eps"] = model.config.layer_norm_eps
    method = dict(mask_ratio=RATIO, decoder_width=DECODER, decoder_depth=1, decoder_heads=2)
    return MAE.from_config(section, method)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(3, IMAGE, IMAGE, 3)).astype(np.float32)
    return images, rng.random((3, (IMAGE // PATCH) ** 2)).astype(np.float32)


def arrays_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def like(method):
    batch = {"image": jnp.zeros((1, IMAGE, IMAGE, 3))}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


def relative(found, expected):
    expected = np.asarray(expected, np.float64)
    return np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()


def test_loss_predictions_and_gradients_agree(model, ours, data):
    images, noise = data
    out = model(torch.tensor(images).permute(0, 3, 1, 2), noise=torch.tensor(noise), output_hidden_states=True)
    model.zero_grad()
    out.loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    names = name_map(spelling_of(model.state_dict()))
    variables = jax.tree.map(jnp.asarray, to_ours(names, arrays_of(model), like(ours), SIZES))
    tokens = noise.shape[1]
    mask = mask_from_noise(jnp.asarray(noise), visible_count(tokens, RATIO), ours.model.grid)
    draws, batch = {"mask": mask, "drop_path": None}, {"image": jnp.asarray(images)}

    @jax.jit
    def differentiate(params):
        forward = lambda p: ours.forward(p, {}, {}, batch, draws, Progress.at(0, 1, 1))  # noqa: E731
        return jax.value_and_grad(forward, has_aux=True)(params)

    with jax.default_matmul_precision("highest"):
        (loss, output), grads = differentiate(variables.params)
    assert relative(loss, out.loss.item()) < 1e-6
    assert relative(output.trace["pred"], out.logits.detach().numpy()) < 5e-6
    np.testing.assert_array_equal(mask.hidden, out.mask.numpy().astype(bool))

    found = to_theirs(names, variables.replace(params=grads), SIZES)
    assert set(found) == set(gradients)
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for name, gradient in gradients.items():
        # Every entry, so a transposed or swapped matrix would show; relative to the largest gradient of the model.
        assert np.abs(found[name] - gradient).max() < 1e-5 * largest, name


def test_round_trip_is_bitwise(model, ours):
    names = name_map(spelling_of(model.state_dict()))
    weights = arrays_of(model)
    back = to_theirs(names, to_ours(names, weights, like(ours), SIZES), SIZES)
    assert set(weights) - set(back) == set(names.computed)
    for name, array in back.items():
        np.testing.assert_array_equal(array, weights[name])
        assert array.dtype == weights[name].dtype


def test_saved_file_holds_the_same_arrays(model, ours, tmp_path):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    trees = [to_ours(name_map(spelling_of(w)), w, like(ours), SIZES) for w in (saved, arrays_of(model))]
    jax.tree.map(np.testing.assert_array_equal, *trees)


def test_every_spelling_is_told_apart_and_covers_all(model, ours):
    tree = to_ours(name_map(spelling_of(model.state_dict())), arrays_of(model), like(ours), SIZES)
    for spelling in SPELLINGS:
        written = to_theirs(name_map(spelling), tree, SIZES)
        assert spelling_of(written) == spelling
        jax.tree.map(np.testing.assert_array_equal, to_ours(name_map(spelling), written, like(ours), SIZES), tree)
    with pytest.raises(VerifyError, match="no arrays of ViTMAEForPreTraining"):
        spelling_of(["cls_token", "blocks.0.attn.qkv.weight"])
