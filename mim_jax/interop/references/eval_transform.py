"""The evaluation transform of the data pipeline against torchvision's on the same files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from mim_jax.data.decode import decode
from mim_jax.data.views import View
from mim_jax.errors import VerifyError
from mim_jax.interop.case import read_npz
from mim_jax.interop.compare import Row, relative_errors
from mim_jax.nn.images import normalize
from mim_jax.recipes import IMAGENET_MEAN, IMAGENET_STD

OTHER_DECODER = 2  # what another JPEG decoder may change in a uint8 value
NORMALISED = 1e-5
_SUFFIX = re.compile(r"(?:_(bicubic|bilinear))?(?:_(\d+))?(_normalised)?")


def accepts(content: Mapping[str, Any]) -> bool:
    """Whether a case.json describes image files and their crops."""
    images = content.get("images")
    return isinstance(images, dict) and all(isinstance(image, dict) and "file" in image for image in images.values())


def rows(content: Mapping[str, Any], folder: Path) -> list[Row]:
    """One row per expected crop, named IMAGE[_bicubic|_bilinear][_SIDE][_normalised].

    uint8 crops must be equal where the decoded file is the one that the original saw (by hash); another decoder may
    differ by 2. Without SIDE the shorter side is resized as `upstream.class` says.

    Raises:
        VerifyError: an image or array that is missing, or a name that is not understood.
    """
    expected = read_npz(folder / "outputs.npz")
    resize = re.search(r"Resize\((\d+)", str(content.get("upstream", {}).get("class", "")))
    pixels = {name: _pixels(folder / str(image["file"])) for name, image in content["images"].items()}
    hashes = {
        name: next((v for k, v in image.items() if k.startswith("sha256")), "")
        for name, image in content["images"].items()
    }
    out = []
    for name, array in expected.items():
        image = max((i for i in pixels if name == i or name.startswith(f"{i}_")), key=len, default=None)
        match = _SUFFIX.fullmatch(name.removeprefix(image)) if image else None
        if not image or not match:
            raise VerifyError(f"{folder / 'outputs.npz'}: the name '{name}' is no image and transform of case.json")
        interpolation, side, normalised = match.groups()
        shorter = int(side or (resize.group(1) if resize else 256))
        # The normalised reference holds the first rows only; the crop is square.
        size = (array.shape[1], array.shape[1]) if normalised else (array.shape[0], array.shape[1])
        view = View("eval", size, "center", interpolation=interpolation or "bicubic", flip=0.0, shorter_side=shorter)
        crop = view(pixels[image], np.random.default_rng(0))
        exact = hashlib.sha256(pixels[image].tobytes()).hexdigest() == hashes[image]
        out.append(_row(name, array, crop, exact, bool(normalised)))
    return out


def _row(name: str, expected: Shaped[np.ndarray, "h w C"], crop: np.ndarray, exact: bool, normalised: bool) -> Row:
    if normalised:
        found = np.asarray(normalize(jnp.asarray(crop[: len(expected)]), IMAGENET_MEAN, IMAGENET_STD))
        error = float(relative_errors(expected, found).max())
        return Row(name, error <= NORMALISED, error, NORMALISED)
    if crop.shape != expected.shape:
        return Row(name, ok=False, note=f"shape {crop.shape}, expected {expected.shape}")
    difference = np.abs(crop.astype(int) - expected.astype(int))
    worst, allowed = int(difference.max()), 0 if exact else OTHER_DECODER
    note = "equal" if worst == 0 else f"differs by up to {worst} of 255 on {np.mean(difference > 0):.2%} of the values"
    return Row(name, worst <= allowed, note=note + ("" if exact else "; the file was decoded otherwise"))


def _pixels(file: Path) -> np.ndarray:
    try:
        return np.asarray(decode(file.read_bytes(), channels=3, dtype=np.dtype(np.uint8)))
    except OSError as error:
        raise VerifyError(f"{file} cannot be read: {error.strerror}") from error
