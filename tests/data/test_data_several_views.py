"""Several crops of an image, several views of it, and views that share a crop."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mim_jax import config_check, recipes
from mim_jax.data import crops, eval_batches, tools, train_batches
from mim_jax.data.check import check
from mim_jax.data.decode import height_width, pixels
from mim_jax.data.jitter import Change, Jitter
from mim_jax.data.records import Records
from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split
from mim_jax.data.views import View, look
from mim_jax.errors import ConfigError


def small(**changes) -> dict:
    """A view of 8 x 8."""
    return recipes.view((8, 8)) | changes


def look_at(data, picture, *, epoch=0, index=0) -> dict[str, np.ndarray]:
    views = Settings.from_config(data).views
    images = look(views, picture, seed=1, epoch=epoch, index=index)
    return dict(zip((v.name for v in views), images, strict=True))


@pytest.fixture
def with_views(data_config):
    """Makes a `data` section with these views alone: `with_views(source, image=small(), ...)`."""

    def make(source: str, /, **views) -> ConfigDict:
        data = data_config(source)
        data.views = views
        return data

    return make


def first(data, **options):
    batches = train_batches(data, seed=1, batch_size=8, **options)
    batch = next(batches)
    batches.close()
    return batch


def test_crops_of_one_image_are_independent(with_views, class_folder):
    data = with_views(f"folder:{class_folder}", image=small(), local=small(count=3, scale=(0.1, 0.4)))
    batch = first(data)
    assert batch["image"].shape == (8, 8, 8, 3)
    assert batch["local"].shape == (8, 3, 8, 8, 3)
    assert batch["local"].dtype == np.uint8
    for crops_of_one in batch["local"]:
        assert len(np.unique(crops_of_one.reshape(3, -1), axis=0)) == 3


def test_one_of_several_crops_is_what_its_number_says(with_views, class_folder, photo):
    # The first crop is that of a view with one; more crops change neither it nor other views.
    few = first(with_views(f"folder:{class_folder}", image=small(), local=small()))
    more = first(with_views(f"folder:{class_folder}", image=small(count=2), local=small(count=5)))
    np.testing.assert_array_equal(more["image"][:, 0], few["image"])
    np.testing.assert_array_equal(more["local"][:, 0], few["local"])
    view = View("local", (8, 8), count=5)
    for row in range(8):
        index = int(few["index"][row])
        for crop in range(5):
            expected = view(photo(index), view.draws(1, 0, index, crop))
            np.testing.assert_array_equal(more["local"][row, crop], expected)


def test_draws_of_crops_are_uncorrelated():
    view = View("local", (8, 8), count=2)
    firsts = np.array([[view.draws(0, 0, i, crop).random() for crop in range(3)] for i in range(2000)])
    assert np.abs(np.corrcoef(firsts.T) - np.eye(3)).max() < 0.07


def test_threads_and_processes_see_the_same_crops(with_views, class_folder):
    views = {"image": small(jitter_first=True, color_jitter=0.4), "tokens": small(size=(4, 4), same_as="image")}
    data = with_views(f"folder:{class_folder}", **views, local=small(count=4, blur=0.5))
    expected = first(data)
    data.threads = 5
    parts = [first(data, process_index=k, process_count=2) for k in range(2)]
    for key, array in expected.items():
        np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), array)


@pytest.mark.parametrize("crop", ["random_resized", "random_resized_clipped"])
def test_shared_box_and_flip_at_two_sizes(data_config, shared, crop):
    # 224 bicubic for the encoder and 112 Lanczos for the tokenizer, from one box (BEiT, CAE).
    data = data_config(f"wds:{shared}/data/imagenet_sample/*.tar")
    image = recipes.view() | {"crop": crop}
    data.views = {"image": image, "tokens": recipes.view((112, 112)) | {"same_as": "image", "interpolation": "lanczos"}}
    settings = Settings.from_config(data)
    records = Records(open_split(settings, "train")[0], settings)
    flips = set()
    for i in range(6):
        picture, _ = records[i]
        found = look_at(data, picture, index=i)
        rng = settings.view("image").draws(1, 0, i)
        sampler = crops.random_resized_box if crop == "random_resized" else crops.clipped_box
        top, left, height, width = sampler(rng, *height_width(picture), (0.2, 1.0), (3 / 4, 4 / 3))
        cut = Image.fromarray(pixels(picture)).crop((left, top, left + width, top + height))
        flip = rng.random() < 0.5
        flips.add(flip)
        for name, side, how in (("image", 224, Image.Resampling.BICUBIC), ("tokens", 112, Image.Resampling.LANCZOS)):
            expected = np.asarray(cut.resize((side, side), how))
            np.testing.assert_array_equal(found[name], expected[:, ::-1] if flip else expected)
    assert flips == {True, False}


def test_shared_jitter_of_the_whole_image(with_views, photo):
    # Contrast is relative to the mean of what is jittered, so before and after the crop differ.
    jittered = small(color_jitter=0.4, color_jitter_hue=0.1, jitter_first=True, flip=0.0)
    data = with_views("digits", image=jittered, tokens=small(size=(4, 4), same_as="image", interpolation="nearest"))
    picture = photo(1, 60, 50)
    found = look_at(data, picture, index=5)
    view = Settings.from_config(data).view("image")
    rng = view.draws(1, 0, 5)
    top, left, height, width = crops.random_resized_box(rng, 60, 50, view.scale, view.ratio)
    whole = Jitter(0.4, 0.4, 0.1).draw(rng)(picture)
    cut = Image.fromarray(whole[top : top + height, left : left + width])
    np.testing.assert_array_equal(found["image"], np.asarray(cut.resize((8, 8), Image.Resampling.BICUBIC)))
    np.testing.assert_array_equal(found["tokens"], np.asarray(cut.resize((4, 4), Image.Resampling.NEAREST)))
    from_file = look_at(data, Image.fromarray(picture), index=5)
    np.testing.assert_array_equal(from_file["tokens"], found["tokens"])
    data.views.image.jitter_first = False
    assert not np.array_equal(look_at(data, picture, index=5)["image"], found["image"])


def test_the_whole_image_is_jittered_once_for_all_views(with_views, photo, monkeypatch):
    sizes, real = [], Change.__call__
    monkeypatch.setattr(Change, "__call__", lambda self, picture: sizes.append(picture.shape) or real(self, picture))
    image = small(color_jitter=0.4, jitter_first=True)
    data = with_views("digits", a=small(same_as="image"), image=image, tokens=small(size=(4, 4), same_as="image"))
    look_at(data, photo(0))
    assert sizes == [(20, 24, 3)]


@pytest.mark.parametrize("crop", ["random_resized", "random_resized_clipped", "random", "center"])
def test_same_size_and_interpolation_give_the_same_pixels(with_views, photo, crop):
    image = small(crop=crop, color_jitter=0.4, color_jitter_probability=0.8, count=2, scale=(0.1, 0.5))
    data = with_views("digits", also=small(same_as="image", count=2), image=image)
    for i in range(5):
        found = look_at(data, photo(i), index=i)
        np.testing.assert_array_equal(found["also"], found["image"])


def test_grayscale_blur_and_solarize_are_not_shared(with_views, photo):
    # The destructive effects of one view leave the other the clean crop (image world models).
    data = with_views("digits", clean=small(same_as="image"), image=small(grayscale=0.5, blur=0.5, solarize=0.5))
    plain = with_views("digits", clean=small(same_as="image"), image=small())
    differ = 0
    for i in range(20):
        found, expected = (look_at(d, photo(i), index=i) for d in (data, plain))
        np.testing.assert_array_equal(found["clean"], expected["clean"])
        differ += not np.array_equal(found["image"], expected["image"])
    assert 10 < differ < 20
    both = with_views("digits", image=small(grayscale=0.5), own=small(same_as="image", grayscale=0.5))
    grey = np.array(
        [[np.ptp(v, axis=-1).max() == 0 for v in look_at(both, photo(i), index=i).values()] for i in range(200)]
    )
    assert abs(np.corrcoef(grey.T)[0, 1]) < 0.25


def test_a_shared_view_alone_is_what_it_is_in_company(with_views, class_folder):
    image = small(color_jitter=0.4, jitter_first=True)
    data = with_views(f"folder:{class_folder}", image=image, tokens=small(size=(4, 4), same_as="image", blur=0.5))
    batch = first(data)
    alone = next(iter(eval_batches(data, split="train", batch_size=40, view="tokens", seed=1)))
    rows = {int(index): image for index, image in zip(alone["index"], alone["image"], strict=True)}
    for index, tokens in zip(batch["index"], batch["tokens"], strict=True):
        np.testing.assert_array_equal(tokens, rows[int(index)])


def test_evaluation_ignores_all_of_it(with_views, class_folder):
    noisy = small(count=3, color_jitter=0.4, grayscale=1.0, blur=1.0, solarize=1.0, jitter_first=True)
    (plain,), (same,) = (
        list(eval_batches(with_views(f"folder:{class_folder}", image=view), batch_size=4)) for view in (small(), noisy)
    )
    np.testing.assert_array_equal(plain["image"], same["image"])


def test_saturation_of_its_own(with_views):
    data = with_views("digits", a=small(color_jitter=0.4), b=small(color_jitter=0.4, color_jitter_saturation=0.2))
    a, b = Settings.from_config(data).views
    assert (a.jitter.strength, a.jitter.saturation) == (0.4, 0.4)
    assert (b.jitter.strength, b.jitter.saturation) == (0.4, 0.2)


def test_crops_of_many_channels(tmp_path, with_views):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 65536, (20, 9, 9, 5), dtype=np.uint16))
    data = with_views(f"npy:{tmp_path}/x.npy", image=small(count=2, blur=1.0, solarize=0.5, color_jitter=0.4))
    data.channels, data.mean, data.std = 5, (0.5,) * 5, (0.5,) * 5
    batch = first(data)
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 2, 8, 8, 5), np.uint16)


def test_cifar_records_for_a_tokenizer_of_the_same_size(with_views, shared):
    size = {"size": (32, 32)}
    views = {"image": small(**size, color_jitter=0.4), "tokens": small(**size, same_as="image", normalize=False)}
    batch = first(with_views(f"parquet:{shared}/data/cifar10/test-*.parquet", **views))
    np.testing.assert_array_equal(batch["image"], batch["tokens"])  # the host does not normalise


def test_show_puts_crops_side_by_side(with_views, class_folder, tmp_path):
    views = {"image": small(), "local": small(size=(4, 6), count=3), "tokens": small(size=(5, 5), same_as="image")}
    config = ConfigDict({"seed": 3, "data": with_views(f"folder:{class_folder}", **views), "training": {}})
    sheet = np.asarray(Image.open(tools.show(config, tmp_path / "grid.png", count=2, draws=2)))
    columns = [8, 8, 8, *[6] * 6, 5, 5]  # evaluation; two draws of each view
    assert sheet.shape == (2 * 10 + 2, sum(columns) + 2 * len(columns) + 2, 3)
    settings = Settings.from_config(config.data)
    picture, _ = Records(open_split(settings, "train")[0], settings)[_first_shown(settings)]
    expected = look([settings.view("local")], picture, seed=3, epoch=1, index=_first_shown(settings))[0]
    left = 2 + 3 * 10 + 3 * 8
    for crop in range(3):
        np.testing.assert_array_equal(sheet[2:6, left + 8 * crop : left + 8 * crop + 6], expected[crop])


def _first_shown(settings: Settings) -> int:
    return int(tools.some(open_split(settings, "train")[1], 2)[0])


def test_bench_measures_each_view(with_views, class_folder):
    data = with_views(f"folder:{class_folder}", image=small(), local=small(count=2))
    found = tools.bench(ConfigDict({"seed": 0, "data": data, "training": {"batch_size": 4}}), seconds=0.2)
    assert list(found) == ["decode", "view", "view image", "view local", "pipeline", "warm"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": 0}, "count = 0 is not a whole number of at least 1"),
        ({"count": 2.0}, "count = 2.0 is not a whole number"),
        ({"color_jitter_probability": 1.5}, "color_jitter_probability = 1.5 is not between 0 and 1"),
        ({"color_jitter_hue": 0.6}, "color_jitter_hue = 0.6 is not between 0 and 0.5"),
        ({"color_jitter_saturation": 1.2}, "color_jitter_saturation = 1.2 is not a number up to 1"),
        ({"grayscale": -0.1}, "grayscale = -0.1 is not between 0 and 1"),
        ({"blur": 2.0}, "blur = 2.0 is not between 0 and 1"),
        ({"solarize": float("nan")}, "solarize = nan is not between 0 and 1"),
        ({"blur_radius": (2.0, 0.1)}, "blur_radius = \\(2.0, 0.1\\) is not a range of pixels"),
        ({"blur_radius": (-1.0, 0.1)}, "blur_radius"),
        ({"jitter_first": "yes"}, "jitter_first = 'yes' is neither True nor False"),
        ({"normalize": 1}, "normalize = 1 is neither"),
        ({"same_as": "tokens"}, "same_as = 'tokens' is itself the same as 'image'"),
        ({"same_as": "image"}, "same_as = 'image' is the view itself"),
    ],
)
def test_impossible_values_are_named(with_views, changes, sentence):
    view = small(**changes) | {}
    with pytest.raises(ConfigError, match=f"data.views.image.{sentence}"):
        check(with_views("digits", image=view, tokens=small(same_as="image")).to_dict())


@pytest.mark.parametrize(
    ("image", "tokens", "sentence"),
    [
        ({}, {"same_as": "imag"}, "same_as = 'imag' is no view; did you mean 'image'?"),
        ({}, {"same_as": "tokens"}, "same_as = 'tokens' is the view itself"),
        ({"count": 2}, {"same_as": "image"}, "count = 1, but data.views.image, whose crops it shares, has 2"),
        ({}, {"same_as": "image", "flip": 0.0}, "flip = 0.0 has no effect.*set data.views.image.flip"),
        ({}, {"same_as": "image", "scale": (0.3, 1.0)}, "scale = \\(0.3, 1.0\\) has no effect"),
        (
            {"crop": "random"},
            {"same_as": "image", "size": (4, 4)},
            "size = \\(4, 4\\), but .*'random' crop.*has \\(8, 8\\)",
        ),
        ({"crop": "center"}, {"same_as": "image", "size": (4, 4)}, "size = .* make them equal, or crop with"),
    ],
)
def test_views_that_cannot_share(with_views, image, tokens, sentence):
    with pytest.raises(ConfigError, match=f"data.views.tokens.{sentence}"):
        check(with_views("digits", image=small(**image), tokens=small(**tokens)))


def test_what_is_shared_may_be_repeated(with_views):
    image = small(flip=0.0, scale=[0.3, 1.0], crop="center")
    check(with_views("digits", image=image, tokens=small(same_as="image")))
    check(with_views("digits", image=image, tokens=image | {"same_as": "image", "interpolation": "nearest"}))


@pytest.mark.parametrize("key", ["color_jitter_hue", "grayscale"])
def test_colours_need_three_channels(with_views, key):
    data = with_views("digits", image=small(**{key: 0.2}))
    for channels in (1, 3, 4, 5):
        data.channels, data.mean, data.std = channels, (0.5,) * channels, (0.5,) * channels
        if channels < 5:
            check(data)
    with pytest.raises(ConfigError, match=f"data.views.image.{key} = 0.2 needs red, green and blue.*is 5; set it to 0"):
        check(data)


def test_new_keys_have_types():
    config = recipes.pretrain()
    with config.data.views.unlocked():
        config.data.views.local = recipes.view((96, 96)) | {"count": 10, "scale": (0.05, 0.25)}
    config_check.check(config)
    for key, value in (("count", 2.5), ("normalize", 1), ("same_as", 3), ("blur_radius", "ab"), ("jitter_first", "no")):
        with config.unlocked(), config.ignore_type():
            config.data.views.local = recipes.view() | {key: value}
        with pytest.raises(ConfigError, match=f"config.data.views.local.{key} = "):
            config_check.check(config)
