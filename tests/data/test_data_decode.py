"""Every kind of file becomes upright pixels of the type and channels asked for, or a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mim_jax.data.decode import decode, pixels, to_channels
from mim_jax.errors import DataError

U8, U16, F32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)


def read(data, channels=3, dtype=U8, **options):
    array = pixels(decode(data, channels=channels, dtype=dtype, **options))
    assert array.dtype == dtype
    assert array.shape[2] == channels
    return array


def save(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_rgb_is_exact(encode, photo):
    np.testing.assert_array_equal(read(encode(photo(0))), photo(0))


def test_grey_and_colour_convert(encode, photo):
    grey = photo(1)[..., 0]
    np.testing.assert_array_equal(read(encode(grey)), np.repeat(grey[..., None], 3, axis=2))
    luma = photo(1).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(read(encode(photo(1)), channels=1)[..., 0] - luma).max() <= 0.51


def test_transparency_is_dropped_or_kept(encode, photo):
    rgba = np.dstack([photo(2), np.full((20, 24), 9, np.uint8)])
    np.testing.assert_array_equal(read(encode(rgba)), photo(2))
    np.testing.assert_array_equal(read(encode(rgba), channels=4), rgba)
    opaque = read(encode(photo(2)), channels=4)
    np.testing.assert_array_equal(opaque, np.dstack([photo(2), np.full((20, 24), 255, np.uint8)]))


def test_palette_with_transparency(recwarn):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    data = save(image, "PNG", transparency=bytes([0, 255]))
    np.testing.assert_array_equal(read(data), [[[10, 20, 30], [200, 100, 50]]])
    np.testing.assert_array_equal(read(data, channels=4)[0, :, 3], [0, 255])
    assert not recwarn.list


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = read(save(image, "JPEG", quality=100))
    assert (np.abs(red.astype(int) - [255, 0, 0]) < 8).all()


def test_16_bit_png_keeps_its_values_or_is_scaled_down():
    wide = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    wide[0, 0] = 127  # rounds to 0; 129 and more round to 1
    wide[0, 1] = 130
    data = save(Image.fromarray(wide), "PNG")
    np.testing.assert_array_equal(read(data, 1, U16)[..., 0], wide)
    np.testing.assert_array_equal(read(data, 3, U16), np.repeat(wide[..., None], 3, axis=2))
    narrow = read(data, 1)[..., 0].ravel()
    np.testing.assert_array_equal(narrow[2:], np.arange(2, 256))
    np.testing.assert_array_equal(narrow[:2], [0, 1])


def test_8_bit_files_spread_over_16_bits(encode, photo):
    np.testing.assert_array_equal(read(encode(photo(3)), 3, U16), photo(3).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(photo, orientation, upright, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(photo(4)), form, exif=exif)
    np.testing.assert_array_equal(read(data), upright(photo(4)))


def test_exif_of_a_jpeg(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(save(Image.fromarray(photo(4)), "JPEG", exif=exif)).shape == (24, 20, 3)


def test_arrays_keep_their_values(photo):
    many = np.random.default_rng(0).integers(0, 65536, (5, 6, 7), dtype=np.uint16)
    np.testing.assert_array_equal(read(many, 7, U16), many)
    np.testing.assert_array_equal(read(photo(0)[..., 0], 1)[..., 0], photo(0)[..., 0])
    floats = np.random.default_rng(0).random((5, 6, 3), dtype=np.float32)
    expected = floats @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(floats, 1, F32)[..., 0], expected, atol=1e-4)


def test_npy_bytes_are_arrays():
    buffer = io.BytesIO()
    many = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    np.save(buffer, many)
    np.testing.assert_array_equal(read(buffer.getvalue(), 5, F32), many)
    with pytest.raises(DataError, match="not a whole .npy file"):
        read(buffer.getvalue()[:-7], 5, F32)


def test_luma_of_arrays_equals_pillow(photo):
    expected = np.asarray(Image.fromarray(photo(5)).convert("L"))
    np.testing.assert_array_equal(to_channels(photo(5), 1)[..., 0], expected)


def test_bad_files_are_named_by_what_is_wrong(encode, photo):
    jpeg = encode(photo(6, 64, 64), "JPEG")
    for data, sentence in (
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not an image"),
        (jpeg[: len(jpeg) // 2], "cannot be decoded: .*(?i:truncated)"),
        (encode(photo(6))[:200], "cannot be decoded"),
    ):
        with pytest.raises(DataError, match=sentence):
            read(data)


def test_huge_images_are_refused_before_they_are_decoded():
    huge = save(Image.new("1", (10_001, 10_000)), "PNG")
    with pytest.raises(DataError, match="10001 x 10000 pixels, more than data.max_pixels = 100000000"):
        read(huge)
    with pytest.raises(DataError, match="more than data.max_pixels = 10"):
        read(np.zeros((4, 4, 3), np.uint8), max_pixels=10)


def test_wrong_channels_and_types(encode, photo):
    with pytest.raises(DataError, match="1, 3 or 4 channels, not data.channels = 5"):
        read(encode(photo(0)), 5)
    with pytest.raises(DataError, match="has 2 channels, but data.channels is 3"):
        read(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(DataError, match="type float64, but the source's are uint8"):
        read(np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="not \\(height, width, channels\\)"):
        read(np.zeros((4, 0, 3), np.uint8))
    with pytest.raises(DataError, match="floating-point"):
        read(save(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
