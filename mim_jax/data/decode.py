"""From an encoded file, or an array, to pixels (H, W, C) of one type and one number of channels.

A `Picture` is an array, or, where the image is 8-bit grey or RGB, still Pillow's image: cropping and resizing that
first saves turning all of it into an array, which takes as long as decoding a JPEG.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from mim_jax.data import npyfile
from mim_jax.data.jpeg import MOST_SCANS, Pending, scans
from mim_jax.errors import DataError

# Pillow's own limit would warn, or refuse what `data.max_pixels` allows; ours is applied before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

Picture = Image.Image | np.ndarray

# What is tried at all: some of Pillow's other formats start programs or read further files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_LUMA = np.array([19595, 38470, 7471], np.int64)  # ITU-R 601-2 in 16-bit fixed point, as Pillow and libjpeg have it


def decode(image: bytes | np.ndarray, *, channels: int, dtype: np.dtype, max_pixels: int = 100_000_000) -> Picture:
    """One record's picture, upright (EXIF), with `channels` channels and pixels of type `dtype`.

    Encoded images become grey (1), RGB (3) or RGBA (4); alpha is dropped, not blended, where it is not asked for, as
    the usual loaders do. With dtype uint16 a 16-bit grey file keeps its values and an 8-bit one is spread over the
    range; with uint8 a 16-bit one is scaled down (Pillow itself reads 16-bit colour as 8 bits). Arrays, and .npy
    files, keep their values and must have the type `dtype`.

    Raises:
        DataError: empty, truncated, not an image, larger than `max_pixels`, wrong type or channels. The sentence names
            no record; `Records` adds it.
    """
    if isinstance(image, bytes):
        if not image:
            raise DataError("is empty (zero bytes); mend or remove it")
        if not image.startswith(npyfile.MAGIC):
            return _decode_file(image, channels, dtype, max_pixels)
        array = npyfile.load(image)
    else:
        array = image
    return _check_array(array, channels, dtype, max_pixels)


def pixels(picture: Picture) -> Shaped[np.ndarray, "H W C"]:
    """A picture as an array."""
    array = np.asarray(picture)
    return array if array.ndim == 3 else array[..., None]


def height_width(picture: Picture | Pending) -> tuple[int, int]:
    """The size of a picture."""
    return picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Pillow's image with nothing decoded yet.

    Raises:
        DataError: more pixels than `max_pixels`, or more passes over them than any encoder makes.
        OSError: not an image of a known format.
    """
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image.height, image.width, max_pixels)
    if image.format in ("JPEG", "MPO") and (found := scans(data)) > MOST_SCANS:
        raise DataError(
            f"has {found} scans, more than any encoder writes ({MOST_SCANS}), each a pass over all pixels; save it "
            "anew, or remove it"
        )
    return image


def _decode_file(data: bytes, channels: int, dtype: np.dtype, max_pixels: int) -> Picture:
    try:
        with open_image(data, max_pixels) as image:
            image.load()
            if image.format == "TIFF" or "exif" in image.info or "Raw profile type exif" in image.info:
                ImageOps.exif_transpose(image, in_place=True)
            return _convert(image, channels, dtype)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("is not an image of a known format; mend or remove it") from None
    except Exception as error:  # Pillow's plugins raise many kinds at damaged files; all mean the same here
        raise DataError(f"cannot be decoded: {error}; mend or remove it") from error


def _convert(image: Image.Image, channels: int, dtype: np.dtype) -> Picture:
    if channels not in _MODES:
        raise DataError(
            f"is an encoded image, which has 1, 3 or 4 channels, not data.channels = {channels}; set it to one of these"
        )
    if dtype not in (np.uint8, np.uint16):
        raise DataError(f"is an encoded image, but the source's pixels are {dtype}; store it as an array of them")
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)[..., None]
        return to_channels(wide if dtype == np.uint16 else _to_8_bits(wide), channels)
    if image.mode == "F":
        raise DataError("is a floating-point image, which has no fixed range; store such images as arrays")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    if dtype == np.uint16:
        return pixels(image).astype(np.uint16) * np.uint16(257)
    # Pillow would weigh colours by alpha when it resizes RGBA, so four channels go on as plain numbers.
    return pixels(image) if channels == 4 else image


def _to_8_bits(wide: np.ndarray) -> np.ndarray:
    return ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(f"has {width} x {height} pixels, more than data.max_pixels = {max_pixels}; raise it, or shrink")


def _check_array(image: np.ndarray, channels: int, dtype: np.dtype, max_pixels: int) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in image.shape:
        raise DataError(f"has shape {image.shape}, not (height, width, channels); mend or remove it")
    if image.dtype != dtype:
        raise DataError(f"has pixels of type {image.dtype}, but the source's are {dtype}; convert it")
    _check_size(image.shape[0], image.shape[1], max_pixels)
    return to_channels(image, channels)


def to_channels(image: Shaped[np.ndarray, "H W C"], channels: int) -> Shaped[np.ndarray, "H W D"]:
    """Grey to colour by repetition, colour to grey by luma, alpha added (opaque) or dropped; else C must be right.

    Raises:
        DataError: no such conversion, for example from 5 channels to 3.
    """
    have = image.shape[2]
    if have == channels:
        return image
    if have not in _MODES or channels not in _MODES:
        raise DataError(f"has {have} channels, but data.channels is {channels}; set it, and model.channels, to {have}")
    colour = image[..., :3]
    if channels == 1:
        return _luma(colour)
    if have == 1:
        colour = np.repeat(image, 3, axis=2)
    if channels == 3:
        return colour
    opaque = np.ones((), image.dtype) if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    return np.concatenate([colour, np.full_like(colour[..., :1], opaque)], axis=2)


def _luma(colour: np.ndarray) -> np.ndarray:
    if colour.dtype.kind == "f":
        return (colour @ (_LUMA / 65536).astype(colour.dtype))[..., None]
    return ((colour.astype(np.int64) @ _LUMA + 32768) >> 16).astype(colour.dtype)[..., None]
