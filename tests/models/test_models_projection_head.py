"""The projection head against PyTorch, and the attention map against attention written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.models.attention_map import cls_attention
from mim_jax.models.projection_head import HeadConfig, ProjectionHead, unit
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig

TOKENS = jax.random.normal(jax.random.key(0), (2, 5, 6))


def made(head):
    params = head.init(jax.random.key(0), TOKENS)["params"]
    moved = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    return moved, head.apply({"params": moved}, TOKENS)


@pytest.mark.parametrize("activation, norm", [("gelu", "none"), ("relu", "layer")])
def test_head_against_torch(activation, norm):
    torch = pytest.importorskip("torch")
    params, (cls, patches) = made(ProjectionHead(7, 4, 8, 3, activation, norm))
    act = torch.nn.functional.gelu if activation == "gelu" else torch.relu
    tensor = lambda a: torch.from_numpy(np.array(a))  # noqa: E731
    x = tensor(TOKENS)
    for name in ("fc1", "fc2", "fc3"):
        x = x @ tensor(params[name]["kernel"]) + tensor(params[name]["bias"])
        if name != "fc3":
            if norm == "layer":
                scale, shift = tensor(params["norm"]["scale"]), tensor(params["norm"]["bias"])
                x = torch.nn.functional.layer_norm(x, (8,), scale, shift)
            x = act(x)
    x = torch.nn.functional.normalize(x, dim=-1)
    for ours, name, rows in ((cls, "last_layer", x[:, 0]), (patches, "last_layer_patches", x[:, 1:])):
        matrix = torch._weight_norm(tensor(params[name]["kernel"]).T, tensor(params[name]["gain"]).T)
        np.testing.assert_allclose(ours, rows @ matrix.T, rtol=1e-5, atol=1e-6)


def test_a_shared_layer_serves_class_token_and_patches():
    params, (cls, patches) = made(ProjectionHead(7, 0, 8, 3))
    assert "last_layer_patches" not in params and patches.shape == (2, 4, 7)
    swapped, _ = ProjectionHead(7, 0, 8, 3).apply({"params": params}, TOKENS[:, 1:])
    np.testing.assert_allclose(swapped, patches[:, 0], rtol=1e-5, atol=1e-6)
    alone, none = ProjectionHead(7, 0, 8, 3).apply({"params": params}, TOKENS[:, :1])
    np.testing.assert_allclose(alone, cls, rtol=1e-5, atol=1e-6)
    assert none.shape == (2, 0, 7)


def test_a_vector_of_zeros_has_a_finite_gradient():
    assert jnp.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros(3))).all()


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"outputs": 0}, "method.head.outputs 0 must be 1 or more"),
        ({"patch_outputs": 64}, "method.head.patch_outputs 64 must be method.head.outputs 8192"),
        ({"teacher_shared": False}, "method.head.teacher_shared False needs method.head.shared False"),
        ({"activation": "silu"}, "method.head.activation 'silu' is not one of gelu, relu"),
        ({"norm": "batch"}, "method.head.norm 'batch' is not one of none, layer"),
        ({"hiden": 3}, "did you mean 'hidden'"),
    ],
)
def test_bad_heads_are_refused(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        HeadConfig.from_section(values)


def test_class_attention_is_that_of_the_last_block():
    config = VitConfig((8, 12), 1, (4, 4), width=8, depth=2, heads=2, positions="learned", scan=True)
    images = jax.random.normal(jax.random.key(1), (2, 8, 12, 1))
    params = Vit(config).init(jax.random.key(0), images)["params"]
    params["blocks_1"]["attn"]["qkv"]["kernel"] *= 20.0  # far from uniform
    found = cls_attention(config, params, images)
    assert found.shape == (2, 2, 3)

    _, layers = Vit(config).apply({"params": params}, images, layers=True)
    block = params["blocks_1"]
    mean, var = (getattr(layers[0], how)(-1, keepdims=True) for how in ("mean", "var"))
    x = (layers[0] - mean) / np.sqrt(var + 1e-6) * block["norm1"]["scale"] + block["norm1"]["bias"]
    qkv = np.asarray(x @ block["attn"]["qkv"]["kernel"] + block["attn"]["qkv"]["bias"])
    q, k = (qkv[..., i : i + 8].reshape(2, 7, 2, 4) for i in (0, 8))
    logits = np.einsum("bkd,btkd->bkt", q[:, 0], k) / 2
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True)).mean(1)[:, 1:]
    np.testing.assert_allclose(np.asarray(found).reshape(2, 6), expected, rtol=1e-4, atol=1e-6)
