"""Impossible values in `data` are refused before anything is opened."""

from __future__ import annotations

import pytest

from mim_jax.data.check import check
from mim_jax.errors import ConfigError


def test_the_recipe_itself_is_possible(data_config):
    check(data_config("digits"))
    check(data_config("digits").to_dict())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": "folders:x"}, "data.source: .*did you mean 'folder'?"),
        ({"eval_source": "parquet:"}, "data.eval_source: .*names no data"),
        ({"channels": 0}, "data.channels = 0 is not a whole number of at least 1"),
        ({"workers": -1}, "data.workers = -1"),
        ({"threads": 0}, "data.threads = 0"),
        ({"prefetch": 0}, "data.prefetch = 0"),
        ({"eval_resize": 0}, "data.eval_resize = 0"),
        ({"max_bad_fraction": 1.5}, "data.max_bad_fraction = 1.5 is not between 0 and 1"),
        ({"on_error": "skpi"}, "data.on_error = 'skpi' is not known; did you mean 'skip'?"),
        ({"mean": (0.5,)}, "data.mean has 1 values but data.channels is 3"),
        ({"std": (0.5, 0.5, 0.0)}, "data.std = .*0.0 is not a positive number"),
        ({"view": {"size": (0, 8)}}, "data.views.image.size = 0"),
        ({"view": {"scale": (0.5, 0.2)}}, "data.views.image.scale = \\(0.5, 0.2\\)"),
        ({"view": {"scale": (0.0, 1.0)}}, "data.views.image.scale"),
        ({"view": {"scale": (0.2, 1.2)}}, "data.views.image.scale"),
        ({"view": {"ratio": (1.5, 0.5)}}, "data.views.image.ratio"),
        ({"view": {"flip": 1.01}}, "data.views.image.flip = 1.01 is not between 0 and 1"),
        ({"view": {"color_jitter": -0.1}}, "data.views.image.color_jitter"),
        ({"view": {"interpolation": "bicbic"}}, "interpolation = 'bicbic' is not known; did you mean 'bicubic'?"),
        ({"view": {"crop": "centre"}}, "crop = 'centre' is not known; did you mean 'center'?"),
    ],
)
def test_impossible_values_are_named(data_config, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check(data_config(**({"source": "digits"} | changes)))


def test_pairs_must_be_pairs(data_config):
    data = data_config("digits").to_dict()
    for key, value in (("size", 8), ("size", (8, 8, 8)), ("scale", "ab"), ("ratio", (1, "2"))):
        view = data["views"]["image"]
        with pytest.raises(ConfigError, match=f"data.views.image.{key} = .* is not a pair"):
            check({**data, "views": {"image": {**view, key: value}}})


def test_view_names(data_config):
    data = data_config("digits").to_dict()
    with pytest.raises(ConfigError, match="data.views is empty"):
        check({**data, "views": {}})
    with pytest.raises(ConfigError, match="data.views.label: the name 'label' is taken"):
        check({**data, "views": {"label": data["views"]["image"]}})
