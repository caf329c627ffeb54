"""Published encoders against timm's classes, which stand in for the authors' own: strict loads, the same features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original_files import assert_same, noise, original, shapes, training_file

from mim_jax.interop.source import Source, read_source
from mim_jax.methods.base import Variables
from mim_jax.methods.beit import BEiT
from mim_jax.methods.cae import CAE
from mim_jax.methods.ibot import IBOT
from mim_jax.methods.ijepa import IJepa
from mim_jax.methods.mae import MAE
from mim_jax.methods.maskfeat import MaskFeat
from mim_jax.methods.simmim import SimMIM
from mim_jax.methods.spark import SparK
from mim_jax.models import conv_config

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")

RESNET = dict(width=(4, 4, 8, 8), depth=(1, 2, 1, 1))


@pytest.fixture
def timm(torchvision_operators):
    return pytest.importorskip("timm", reason="timm is not installed (extra 'interop')")


def stirred(model, amount: float = 0.1):
    """A model of theirs, ready to compare: noise on every parameter and statistic, variances positive."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value += amount * torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return model.eval()


def their_arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def their_features(model, images):
    with torch.no_grad():
        return model.forward_features(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()


def our_features(method, found, images):
    """Tokens with the class token first, or the last map as tokens; weights are those of the encoder that is judged."""
    params, extra = found.params["encoder"], found.extra
    for copy in method.encoder_copies:
        extra = {copy.split("/")[0]: {"encoder": params}}
    encode = jax.jit(lambda params, extra, x: method.encode(params, x, extra=extra))
    with jax.default_matmul_precision("highest"):
        out = encode({"encoder": params}, extra, jnp.asarray(images))
    return np.asarray(out.patches if out.cls is None else jnp.concatenate([out.cls[:, None], out.patches], axis=1))


def there_and_back(folder, form, method, model, nested):
    """Their weights in their file, as ours: the same features; written again, the same arrays."""
    arrays = their_arrays(model)
    source = read_source(training_file(folder / "checkpoint.pth", nested(arrays)))
    assert form.accepts(source)
    like = shapes(method)
    found = form.read(method, source, like)
    images = np.random.default_rng(1).standard_normal((2, *method.model.image_size, 3)).astype(np.float32)
    expected, ours = their_features(model, images), our_features(method, found, images)
    if expected.ndim == 4:
        expected = expected.reshape(*expected.shape[:2], -1).transpose(0, 2, 1)
    error = abs(ours - expected).max() / abs(expected).max()
    encoder = found.params["encoder"]
    copies = [path.split("/")[0] for path in method.encoder_copies]
    whole = Variables({"encoder": encoder}, {copy: {"encoder": encoder} for copy in copies} or found.extra)
    back = form.write(method, whole)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in back.items()}, strict=True)
    return error


def vit(timm, method):
    c = method.model
    sizes = dict(img_size=c.image_size, patch_size=c.patch_size, embed_dim=c.width, depth=c.depth, num_heads=c.heads)
    return stirred(timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=0, global_pool=""))


@pytest.mark.parametrize("method", [MAE.tiny(), IBOT.tiny()], ids=["mae", "ibot"])
def test_vision_transformers(timm, tmp_path, method):
    form, model = original(method.name, "encoder"), vit(timm, method)
    for name, table in form.layout(method, ()).tables.items():
        model.state_dict()[name].copy_(torch.from_numpy(np.array(table)))  # MAE's positions are fixed
    assert there_and_back(tmp_path, form, method, model, form.nest) < 2e-5


def test_resnets(timm, tmp_path):
    method = SparK.from_config(dict(image_size=(64, 64), arch="resnet", **RESNET), dict(decoder_width=32))
    resnet = timm.models.resnet
    model = resnet.ResNet(resnet.Bottleneck, RESNET["depth"], channels=RESNET["width"], num_classes=0)
    form = original("spark", "encoder")
    assert there_and_back(tmp_path, form, method, stirred(model), lambda arrays: arrays) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name, parameters", [("vit_base_patch16_224", 85_798_656), ("resnet50", 23_508_032)])
def test_base_size_encoders(timm, tmp_path, name, parameters):
    model = stirred(timm.create_model(name, num_classes=0), 0.02)
    if name == "resnet50":
        config = conv_config.variant(name)
        method, form = SparK.from_config(config, {}), original("spark", "encoder")
    else:
        method, form = MAE(), original("mae", "encoder")
        model.pos_embed.data.copy_(torch.from_numpy(np.array(form.layout(method, ()).tables["pos_embed"])))
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert there_and_back(tmp_path, form, method, model, form.nest) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MAE, SimMIM, BEiT, CAE, MaskFeat, IBOT, IJepa, SparK])
def test_base_size_checkpoints(kind, tmp_path):
    """Everything that a system of published size trains, there and back, bit by bit."""
    method, form = kind.from_config({}, {}), original(kind.name, "all")
    assert not form.refusal(method)
    like = shapes(method)
    variables = noise(like)
    arrays = form.write(method, variables)
    source = Source(tmp_path, nested_names(form.nest(arrays)))
    assert form.accepts(source)
    assert_same(form.read(method, source, like), variables)


def nested_names(content, prefix=""):
    """Nested arrays by names joined by dots, as a file of torch is read."""
    if not isinstance(content, dict):
        return {prefix.removesuffix("."): content}
    return {k: v for key, value in content.items() for k, v in nested_names(value, f"{prefix}{key}.").items()}
