"""What makes the loader fast changes no draw, and pixels only as far as it says."""

from __future__ import annotations

import dataclasses
import io
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mim_jax.data import jpeg, small, train_batches
from mim_jax.data.check import check
from mim_jax.data.decode import decode, pixels
from mim_jax.data.randomness import generator, words
from mim_jax.data.views import View, look
from mim_jax.errors import ConfigError, DataError
from mim_jax.training.device_crops import crop_resize
from mim_jax.training.views import Views


def take(data, count=6, **options):
    batches = train_batches(data, **{"seed": 1, "batch_size": 8} | options)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def horizontal_first(image, box, size, how):
    """Pillow one pass at a time: the order of torchvision on Pillow before 13."""
    top, left, h, w = box
    cut = Image.fromarray(image).crop((left, top, left + w, top + h))
    return np.asarray(cut.resize((size[1], h), how).resize((size[1], size[0]), how))


# Whole batches of small images.


def test_words_are_numpys_stream():
    indices = np.array([0, 5, 2**33, 49_999])
    found = words(-3, 7, indices, "view image", 3)
    for row, index in zip(found, indices.tolist(), strict=True):
        rng = generator(-3, epoch=7, index=index, purpose="view image")
        np.testing.assert_array_equal(row, rng.bit_generator.random_raw(12))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_batches_equal_pillow_to_the_bit(interpolation, channels):
    images = np.random.default_rng(0).integers(0, 256, (70, 12, 16, channels), dtype=np.uint8)
    # A tall ratio makes some tries fail, so that every branch of the draw is met.
    view = View("image", (20, 24), interpolation=interpolation, scale=(0.1, 1.0), ratio=(0.2, 3.0))
    assert small.serves(view, 12, 16, images.dtype)
    indices = np.arange(70) * 13
    found = small.crops(view, images, indices, seed=3, epoch=2)
    for image, index, mine in zip(images, indices.tolist(), found, strict=True):
        picture = Image.fromarray(image if channels == 3 else image[..., 0])
        np.testing.assert_array_equal(mine, look([view], picture, seed=3, epoch=2, index=index)[0])


def test_draws_that_hardly_ever_fit_are_those_of_one_image():
    view = View("image", (16, 16), scale=(0.9, 1.0), ratio=(3.0, 4.0))  # never fits: the fallback
    boxes, flips = small.draw(view, 16, 16, np.arange(5), 0, 0)
    for index in range(5):
        choice = view.choose(np.zeros((16, 16, 3), np.uint8), view.draws(0, 0, index))
        assert (*boxes[index].tolist(), bool(flips[index])) == (*choice.box, choice.flip)


@pytest.mark.parametrize(
    "changes", [{"crop": "center"}, {"size": (8, 8)}, {"count": 2}, {"same_as": "x"}, {"interpolation": "lanczos"}]
)
def test_other_views_go_one_by_one(changes):
    assert not small.serves(View(**{"name": "image", "size": (16, 16)} | changes), 16, 16, np.dtype(np.uint8))


# Caches.


@pytest.fixture
def small_data(class_folder, data_config):
    """40 small photos, enlarged: what whole-batch arithmetic takes over in the second epoch."""
    return lambda **changes: data_config(
        f"folder:{class_folder}", view={"size": (24, 24)}, eval_source="digits:test", **changes
    )


@pytest.mark.parametrize("cache", ["auto", "memory", "disk"])
def test_batches_do_not_depend_on_the_cache(small_data, tmp_path, cache):
    plain = take(small_data(cache="none"), 12)
    folder = str(tmp_path / "cache") if cache == "disk" else ""
    cached = small_data(cache=cache, cache_dir=folder)
    same(take(cached, 12), plain)
    same(take(cached, 12), plain)  # from the file that is there now


def test_disk_cache_of_other_records_is_refused(small_data, class_folder, tmp_path):
    config = small_data(cache="disk", cache_dir=str(tmp_path / "cache"))
    take(config, 1)
    image = next(path for path in sorted(class_folder.rglob("*")) if path.is_file())
    image.write_bytes(sorted(p for p in class_folder.rglob("*") if p.is_file())[1].read_bytes())
    with pytest.raises(DataError, match="holds other records .* delete it"):
        take(config, 1)


def test_disk_cache_that_is_cut_off_is_refused(small_data, tmp_path):
    config = small_data(cache="disk", cache_dir=str(tmp_path / "cache"))
    take(config, 1)
    (path,) = (tmp_path / "cache").iterdir()
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="not a whole cache"):
        take(config, 1)


def test_disk_cache_that_cannot_be_finished_leaves_nothing(small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        take(small_data(cache="disk", cache_dir=str(tmp_path / "cache")), 1)
    assert not list((tmp_path / "cache").iterdir())


def test_bad_records_are_bad_behind_a_disk_cache_too(small_data, class_folder, tmp_path):
    bad = next(path for path in sorted(class_folder.rglob("*")) if path.is_file())
    bad.write_bytes(b"nothing")
    config = small_data(cache="disk", cache_dir=str(tmp_path / "cache"), on_error="skip", max_bad_fraction=0.5)
    same(take(config, 5), take(small_data(cache="none", on_error="skip", max_bad_fraction=0.5), 5))
    with pytest.raises(DataError, match=bad.name):
        take(small_data(cache="disk", cache_dir=str(tmp_path / "cache")), 5)


# JPEG no further down than the crop.


@pytest.fixture
def jpeg_bytes(photo, encode):
    return lambda **options: encode(photo(3, 90, 70), "JPEG", **{"quality": 90} | options)


def pillow(data, channels=3):
    return pixels(decode(data, channels=channels, dtype=np.dtype(np.uint8)))


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
@pytest.mark.parametrize("bottom", [1, 8, 33, 90])
def test_rows_above_a_crop_equal_the_whole_image(jpeg_bytes, options, bottom):
    pytest.importorskip("simplejpeg")
    data = jpeg_bytes(**options)
    found = jpeg.pending(data, 3, lambda: pytest.fail("the fast decoder was not content"))
    rows = found.decode(bottom)
    assert bottom <= len(rows) <= 90 and (found.height, found.width) == (90, 70)
    # What lies below the crop may differ where smooth chroma upsampling would have seen the next row.
    np.testing.assert_array_equal(rows[:bottom], pillow(data)[:bottom])


def test_grey_files_in_colour(photo, encode):
    pytest.importorskip("simplejpeg")
    data = encode(photo(1, 40, 30, channels=1)[..., 0], "JPEG")
    rows = jpeg.pending(data, 3, lambda: pytest.fail("not content")).decode(20)
    np.testing.assert_array_equal(rows, pillow(data)[: len(rows)])


def test_what_only_pillow_reads_is_left_to_it(photo, encode, jpeg_bytes):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert jpeg.header(jpeg_bytes(exif=exif)) is None
    exif[0x0112] = 1
    assert jpeg.header(jpeg_bytes(exif=exif)) == dataclasses.replace(
        jpeg.header(jpeg_bytes()), at=jpeg.header(jpeg_bytes(exif=exif)).at
    )
    assert jpeg.header(encode(photo(0), "PNG")) is None
    assert jpeg.header(jpeg_bytes()[:30]) is None
    assert jpeg.pending(jpeg_bytes(), 1, bytes) is None  # its grey is Pillow's luma


def test_a_truncated_file_is_bad_whatever_the_crop(jpeg_bytes):
    pytest.importorskip("simplejpeg")
    data = jpeg_bytes(quality=95)
    with pytest.raises(DataError, match="decoded"):
        jpeg.pending(data[: len(data) * 3 // 4], 3, lambda: pillow(data[: len(data) * 3 // 4])).decode(8)


@pytest.fixture
def jpeg_folder(tmp_path, photo, encode):
    for i in range(20):
        folder = tmp_path / "jpeg" / str(i % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(encode(photo(i, 60 + i, 80 - i), "JPEG", quality=92))
    return tmp_path / "jpeg"


def test_fast_batches_have_the_same_crops_within_two_levels(jpeg_folder, data_config):
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cykooz_resizer")
    options = {"view": {"size": (24, 24)}, "eval_source": "digits:test", "cache": "none"}
    exact = data_config(f"folder:{jpeg_folder}", **options)
    fast = data_config(f"folder:{jpeg_folder}", decode="fast", **options)
    for a, b in zip(take(exact), take(fast), strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        # These crops are smooth, so that Pillow's order of the passes does not show.
        assert np.abs(a["image"].astype(int) - b["image"]).max() <= 2
    same(take(fast), take(fast, batch_size=8))


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("shape", [(50, 40), (16, 40), (50, 10)])
def test_vector_resize_is_two_levels_from_pillow(how, shape):
    pytest.importorskip("cykooz_resizer")
    from mim_jax.data import simd

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = simd.resize(image, (24, 20), how)
    expected = horizontal_first(image, (0, 0, *shape), (24, 20), Image.Resampling[how.upper()])
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_the_fast_decoder_must_be_installed(data_config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    with pytest.raises(ConfigError, match=r"needs the package simplejpeg; install mim_jax\[fast\]"):
        check(data_config("digits", decode="fast"))


# Crops on the device.


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("box", [(0, 0, 30, 40), (3, 5, 20, 11), (29, 39, 1, 1), (7, 0, 9, 40)])
def test_device_crops_are_two_levels_from_pillow(how, box):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    expected = horizontal_first(image, box, (16, 20), Image.Resampling[how.upper()])
    for flip in (0, 1):
        found = crop_resize(jnp.asarray(image), jnp.asarray([*box, flip]), (16, 20), how)
        wanted = expected[:, ::-1] if flip else expected
        assert np.abs(np.asarray(found).astype(int) - wanted).max() <= 2


def test_device_crops_draw_what_the_host_draws(small_data):
    host, device = small_data(), small_data(crop_on="device")
    views = Views.from_config(device)
    for one, other in zip(take(host), take(device), strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])
        assert other["stored"].shape[1:] == (*other["stored"].shape[1:3], 3) and "image" not in other
        made = views.prepare({k: v for k, v in other.items()})
        wanted = Views.from_config(host).prepare(one)
        assert set(made) == set(wanted)
        step = 2 / 255 / min(host.std)
        assert float(jnp.abs(made["image"] - wanted["image"]).max()) <= step + 1e-5


def test_several_crops_on_the_device(small_data):
    host, device = small_data(), small_data(crop_on="device")
    for config in (host, device):
        config.views.image.count = 3
    (one,), (other,) = take(host, 1), take(device, 1)
    made = Views.from_config(device).prepare(other)["image"]
    assert made.shape == one["image"].shape
    wanted = Views.from_config(host).prepare(one)["image"]
    assert float(jnp.abs(made - wanted).max()) <= 2 / 255 / min(host.std) + 1e-5


def test_images_of_several_sizes_cannot_be_cropped_on_the_device(jpeg_folder, data_config):
    config = data_config(f"folder:{jpeg_folder}", eval_source="digits:test", crop_on="device")
    with pytest.raises(DataError, match="data.crop_on = 'device' needs images of one size"):
        take(config)


@pytest.mark.parametrize(
    ("changes", "view", "words_"),
    [
        ({"cache": "disk"}, {}, "the disk cache needs a folder"),
        ({"cache_dir": "x"}, {}, "the disk cache needs a folder"),
        ({"cache": "ram"}, {}, "data.cache = 'ram' is not known"),
        ({"decode": "quick"}, {}, "data.decode = 'quick' is not known"),
        ({"crop_on": "gpu"}, {}, "data.crop_on = 'gpu' is not known"),
        ({"crop_on": "device"}, {"crop": "center"}, "views.image.crop = 'center' is not done on the device"),
        ({"crop_on": "device"}, {"blur": 0.5}, "views.image.blur = 0.5 is not done on the device"),
        ({"crop_on": "device"}, {"interpolation": "nearest"}, "interpolation = 'nearest' is not done on the device"),
    ],
)
def test_impossible_settings_are_one_sentence(data_config, changes, view, words_):
    with pytest.raises(ConfigError, match=words_):
        check(data_config("digits", view=view, **changes))


def test_fast_crops_of_the_photographs(shared, data_config):
    """The documented tolerance, on full-size photographs."""
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cykooz_resizer")
    from mim_jax.data.sources import open_source

    source = open_source(f"wds:{shared}/data/imagenet_sample/*.tar")
    exact, fast = View("image", (224, 224)), View("image", (224, 224), fast=True)
    total, most = 0.0, 0.0
    chosen = range(0, len(source), 20)
    for index in chosen:
        data = source[index]["image"]
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        found = jpeg.pending(data, 3, lambda d=data: pillow(d)) or whole
        (a,) = look([exact], whole, seed=0, epoch=0, index=index)
        (b,) = look([fast], found, seed=0, epoch=0, index=index)
        difference = np.abs(a.astype(int) - b)
        total, most = total + difference.mean(), max(most, (difference > 2).mean())
    assert total / len(chosen) < 0.1 and most < 0.02
    assert math.isfinite(total)
