"""Maps beside the images: the same crop and flip, the nearest value, and every fault named."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from mim_jax.data import eval_batches, train_batches
from mim_jax.data.check import check
from mim_jax.data.maps import in_unit_range
from mim_jax.errors import ConfigError, DataError

HEIGHT, WIDTH = 24, 20


@pytest.fixture
def folders(tmp_path):
    """24 images whose red tells the row, green the column; maps of the row (16 bits) and of the column (a label)."""
    rows, columns = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    for number in range(24):
        image = np.stack([rows * 10, columns * 12, np.full_like(rows, number)], axis=-1)
        for kind, array in (("images", image), ("depth", rows * 2560), ("labels", columns)):
            file = tmp_path / kind / "class" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint16 if kind == "depth" else np.uint8)).save(file)
    return tmp_path


@pytest.fixture
def data(folders, data_config):
    made = data_config(f"folder:{folders}/images", view={"interpolation": "nearest"})
    made.maps = {
        "depth": {"source": f"folder:{folders}/depth"},
        "labels": {"source": f"folder:{folders}/labels", "stride": 4, "classes": WIDTH},
    }
    return made


def first(data, batch_size=16):
    batches = train_batches(data, seed=1, batch_size=batch_size)
    batch = next(batches)
    batches.close()
    return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_a_map_is_cut_as_its_image_is(data, workers):
    data.workers = workers
    check(data)
    batch = first(data)
    red, green = batch["image"][..., 0].astype(int), batch["image"][..., 1].astype(int)
    assert batch["depth"].shape == (16, 8, 8, 1) and batch["depth"].dtype == np.float32
    np.testing.assert_array_equal(batch["depth"][..., 0] * 65536, red // 10 * 2560)
    assert batch["labels"].shape == (16, 2, 2, 1)
    np.testing.assert_array_equal(batch["labels"][..., 0], (green // 12)[:, 2::4, 2::4])
    forward = np.diff(green, axis=2).sum((1, 2)) > 0
    assert 0 < forward.sum() < 16  # some are flipped


def test_what_is_drawn_for_the_image_does_not_change(data):
    with_maps = first(data)["image"]
    data.maps = {}
    np.testing.assert_array_equal(first(data)["image"], with_maps)


def test_jitter_leaves_maps_alone(data):
    plain = first(data)
    data.views.image.update(color_jitter=0.8, blur=1.0, erase=1.0, jitter_first=True, randaugment="m9")
    changed = first(data)
    assert (changed["image"] != plain["image"]).any()
    np.testing.assert_array_equal(changed["depth"], plain["depth"])


def test_held_out_images_with_their_maps(data, folders):
    batch = next(iter(eval_batches(data, batch_size=2, maps=True)))
    np.testing.assert_array_equal(batch["depth"][..., 0] * 65536, batch["image"][..., 0].astype(int) // 10 * 2560)
    assert "depth" not in next(iter(eval_batches(data, batch_size=2)))
    data.eval_source = data.source
    with pytest.raises(ConfigError, match="data.maps.depth.eval_source is empty"):
        eval_batches(data, batch_size=2, maps=True)
    data.maps.depth.eval_source = data.maps.labels.eval_source = f"folder:{folders}/labels"
    assert next(iter(eval_batches(data, batch_size=2, maps=True)))["depth"].shape == (2, 8, 8, 1)


def test_maps_of_other_files_are_named(data, folders):
    (folders / "depth/class/07.png").unlink()
    with pytest.raises(DataError, match=r"data.maps.depth: 'folder:.*depth' has no map 'class/07' for the record of"):
        first(data)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folders / "depth/class/07.png")
    with pytest.raises(
        DataError, match=r"the map 'class/07.png' of data.maps.depth is 4 x 3, but its image is 20 x 24"
    ):
        first(data, 20)
    data.on_error, data.max_bad_fraction = "skip", 0.5
    assert 7 not in first(data, 20)["index"]
    data.on_error = "stop"
    (folders / "depth/class/07.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the map 'class/07.png' of data.maps.depth is not an image that can be read"):
        first(data, 20)


def test_two_maps_of_one_name_are_named(data, folders):
    (folders / "depth/class/07.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"'class/07.npy' and 'class/07.png' have the same name; remove one of them"):
        first(data)


def test_a_label_beyond_the_classes_is_named(data):
    data.maps.labels.classes = 4
    with pytest.raises(DataError, match=r"of data.maps.labels has the label 19, beyond 4 classes"):
        first(data)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"sauce": "digits"}, "data.maps.depth.sauce is not a setting of a map; did you mean 'source'"),
        ({"source": "maps"}, "data.maps.depth.source: data source 'maps'"),
        (
            {"source": "digits", "stride": 3},
            "data.maps.depth.stride = 3 does not divide data.views.image.size = (8, 8)",
        ),
        ({"source": "digits", "stride": 0}, "data.maps.depth.stride = 0 is not a whole number of at least 1"),
        ({"source": "digits", "eval_source": "digits"}, "data.eval_source is empty; give both, or neither"),
    ],
)
def test_what_is_no_map_is_refused(data_config, section, sentence):
    data = data_config("digits")
    data.maps = {"depth": section}
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check(data)


def test_names_and_places_are_refused(data_config):
    data = data_config("digits")
    data.maps = {"image": {"source": "digits"}}
    with pytest.raises(ConfigError, match="data.maps.image: the name 'image' is taken"):
        check(data)
    data.maps, data.crop_on = {"depth": {"source": "digits"}}, "device"
    with pytest.raises(ConfigError, match="data.maps.depth: maps are cut on the host"):
        check(data)


def test_whole_numbers_by_the_size_of_their_type():
    for values, one in ((np.uint8([128]), 0.5), (np.uint16([1 << 15]), 0.5), (np.int32([1 << 15]), 0.5)):
        np.testing.assert_array_equal(in_unit_range(values[None]), [[one]])
    np.testing.assert_array_equal(in_unit_range(np.float64([[2.5]])), np.float32([[2.5]]))
