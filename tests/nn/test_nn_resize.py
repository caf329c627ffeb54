"""Tables and kernels for other grids, patches and channels, against torch, timm and numpy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.nn.patches import change_channels, patchify, resize_patch_kernel
from mim_jax.nn.positions import resize_positions

GRIDS = [((4, 4), (7, 7)), ((7, 5), (4, 9)), ((16, 16), (9, 14)), ((37, 37), (16, 16))]
PATCHES = [((4, 4), (8, 8)), ((8, 8), (5, 6)), ((4, 6), (6, 4)), ((16, 16), (14, 14))]


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("old, new", GRIDS)
@pytest.mark.parametrize("rule", ["plain", "antialias", "scale factor"])
def test_positions_against_torch(old, new, rule):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    table = draw(1, 1 + old[0] * old[1], 6)
    maps = torch.from_numpy(table[:, 1:]).reshape(1, *old, 6).permute(0, 3, 1, 2)
    how = dict(size=new, align_corners=False, antialias=rule == "antialias")
    if rule == "scale factor":  # DINO's: the factor is used as it is given, not as the sizes would have it
        how = dict(scale_factor=tuple((n + 0.1) / o for n, o in zip(new, old, strict=True)))
    expected = torch.nn.functional.interpolate(maps, mode="bicubic", **how).permute(0, 2, 3, 1).reshape(1, -1, 6)
    given = dict(offset=0.1) if rule == "scale factor" else dict(antialias=rule == "antialias")
    found = resize_positions(jnp.asarray(table), old, new, 1, **given)
    np.testing.assert_allclose(found[:, 1:], expected.numpy(), atol=3e-5)
    np.testing.assert_array_equal(found[:, :1], table[:, :1])


def test_positions_against_timm(torchvision_operators):
    pos_embed = pytest.importorskip("timm.layers.pos_embed", reason="timm is not installed (extra 'interop')")
    import torch

    table = draw(1, 2 + 5 * 7, 6)
    expected = pos_embed.resample_abs_pos_embed(torch.from_numpy(table), [8, 6], [5, 7], num_prefix_tokens=2)
    found = resize_positions(jnp.asarray(table), (5, 7), (8, 6), 2, antialias=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("old, new", PATCHES)
def test_patch_kernels_against_the_pseudo_inverse_in_numpy(old, new):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    size, kernel = old[0] * old[1], draw(old[0] * old[1] * 3, 5)
    # Column i is the patch that is one at pixel i, resized.
    columns = torch.nn.functional.interpolate(torch.eye(size).reshape(size, 1, *old), size=new, mode="bilinear")
    resize = columns.reshape(size, -1).T.numpy().astype(np.float64)
    by_channel = kernel.reshape(size, 3, 5)
    # A patch that grows one way and shrinks the other has singular values of zero, which float32 leaves at 1e-8.
    expected = np.einsum("qp,pcd->qcd", np.linalg.pinv(resize.T, rcond=1e-5), by_channel).reshape(-1, 5)
    found = resize_patch_kernel(kernel, old, new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("old, new", PATCHES)
def test_patch_kernels_against_timm(torchvision_operators, old, new):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed (extra 'interop')")
    import torch

    kernel = draw(old[0] * old[1] * 3, 5)
    theirs = torch.from_numpy(kernel).reshape(*old, 3, 5).permute(3, 2, 0, 1).contiguous()
    expected = layers.resample_patch_embed(theirs, list(new), interpolation="bilinear", antialias=False)
    expected = expected.permute(2, 3, 1, 0).reshape(-1, 5).numpy()
    np.testing.assert_allclose(resize_patch_kernel(kernel, old, new), expected, atol=1e-3 * np.abs(expected).max())


def test_enlarged_patches_give_the_same_tokens():
    """FlexiViT's point: the embedding of an image and that of the same image enlarged, patch by patch, are equal."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    patches, kernel = draw(6, 4, 4, 3), draw(48, 5)
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(patches).permute(0, 3, 1, 2), size=(7, 8), mode="bilinear"
    )
    larger = larger.permute(0, 2, 3, 1).numpy()
    expected, found = (
        patchify(jnp.asarray(images), images.shape[1:3])[:, 0] @ weights
        for images, weights in ((patches, kernel), (larger, resize_patch_kernel(kernel, (4, 4), (7, 8))))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("old, new", [(3, 1), (3, 4), (3, 8), (1, 3), (4, 3), (5, 1)])
def test_channels_against_timm(torchvision_operators, old, new):
    models = pytest.importorskip("timm.models", reason="timm is not installed (extra 'interop')")
    import torch

    kernel = draw(2, 2, old, 5)
    theirs = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    expected = models.adapt_input_conv(new, theirs, base_chans=old).numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(change_channels(kernel, new), expected, rtol=1e-6)


def test_a_grey_image_gives_what_its_copies_gave():
    grey, kernel = draw(2, 3, 3, 1), draw(3, 3, 3, 4)
    expected = np.einsum("bhwc,hwcd->bd", grey.repeat(3, axis=-1), kernel)
    np.testing.assert_allclose(np.einsum("bhwc,hwcd->bd", grey, change_channels(kernel, 1)), expected, rtol=1e-4)
    back = change_channels(change_channels(kernel, 1), 3)
    np.testing.assert_allclose(np.einsum("bhwc,hwcd->bd", grey.repeat(3, axis=-1), back), expected, rtol=1e-4)
