"""Checks of the `data` section of a config, before anything is opened."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from mim_jax import recipes
from mim_jax.data.device import refuse_host_only
from mim_jax.data.erasing import MODES
from mim_jax.data.jpeg import require_fast
from mim_jax.data.maps import MapSettings
from mim_jax.data.randaugment import parse as parse_policy
from mim_jax.data.resize import FILTERS
from mim_jax.data.sources import parse
from mim_jax.data.views import CROPS, SHARED
from mim_jax.errors import ConfigError, DataError, check_keys, nearest
from mim_jax.section import Section

RESERVED = ("index", "label", "valid", "eval", "bad", "fatal")
Real = (int, float)  # NumPy's float64 is a float too
FRACTIONS = ("flip", "color_jitter", "color_jitter_probability", "grayscale", "blur", "solarize", "erase")
LEAST = {"channels": 1, "eval_resize": 1, "workers": 0, "threads": 1, "prefetch": 1, "max_pixels": 1}
LEAST |= {"per_class": 0, "subset_seed": 0}


def check(data: Section) -> None:
    """Refuses impossible values. Raises ConfigError naming the key `data....`, the value and what is valid."""
    for key in ("source", "eval_source"):
        if key == "source" or data[key]:
            _source(f"data.{key}", data[key])
    for key, least in LEAST.items():
        _whole("data." + key, data[key], least)
    _share("data.max_bad_fraction", data["max_bad_fraction"])
    _share("data.fraction", data["fraction"])
    if not data["fraction"]:
        raise ConfigError(f"data.fraction = {data['fraction']} leaves no image to train on; give a share above 0")
    if not isinstance(data["balanced"], bool):
        raise ConfigError(f"data.balanced = {data['balanced']!r} is neither True nor False")
    if data["per_class"] and data["fraction"] != 1:
        raise ConfigError(
            f"data.per_class = {data['per_class']} and data.fraction = {data['fraction']} both say how many images to "
            "train on; leave data.fraction at 1"
        )
    _one_of("data.on_error", data["on_error"], ("stop", "skip"))
    _speed(data)
    _statistics(data)
    if not data["views"]:
        raise ConfigError("data.views is empty; it needs at least one view, such as 'image'")
    for name, view in data["views"].items():
        if name in RESERVED:
            raise ConfigError(f"data.views.{name}: the name '{name}' is taken; call the view for example 'image'")
        _view(f"data.views.{name}", view, data["channels"])
    for name in data["views"]:
        if data["views"][name]["same_as"] != "":
            _same_as(name, data["views"])
    for name, section in (data.get("maps") or {}).items():
        _map(f"data.maps.{name}", name, section, data)


def _source(where: str, spec: str) -> None:
    try:
        parse(spec)
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from error


def _map(where: str, name: str, section: Section, data: Section) -> None:
    check_keys(MapSettings, section, where, "a map")
    if name in RESERVED or name in data["views"]:
        raise ConfigError(f"{where}: the name '{name}' is taken; call the map for example 'depth'")
    if "image" not in data["views"]:
        raise ConfigError(f"{where} is cut as the view 'image' is, but data.views has none; add it")
    if data["crop_on"] == "device":
        raise ConfigError(f"{where}: maps are cut on the host; set data.crop_on = 'host'")
    one = MapSettings(**dict(section))
    if one.source:  # a run cannot do without; the config of a row, which knows nobody's folders, can
        _source(f"{where}.source", one.source)
    if one.eval_source and not data["eval_source"]:
        raise ConfigError(
            f"{where}.eval_source = {one.eval_source!r}, but data.eval_source is empty; give both, or neither, and "
            "held-out images are taken from data.source with their maps"
        )
    if one.eval_source:
        _source(f"{where}.eval_source", one.eval_source)
    _whole(f"{where}.stride", one.stride, 1)
    _whole(f"{where}.classes", one.classes, 0)
    size = tuple(data["views"]["image"]["size"])
    if any(side % one.stride for side in size):
        raise ConfigError(f"{where}.stride = {one.stride} does not divide data.views.image.size = {size}")


def _speed(data: Section) -> None:
    _one_of("data.decode", data["decode"], ("exact", "fast"))
    if data["decode"] == "fast":
        require_fast()
    _one_of("data.cache", data["cache"], ("none", "auto", "memory", "disk"))
    if (data["cache"] == "disk") != bool(data["cache_dir"]):
        raise ConfigError(
            f"data.cache = {data['cache']!r} and data.cache_dir = {data['cache_dir']!r}: the disk cache needs a "
            "folder, and nothing else does"
        )
    _one_of("data.crop_on", data["crop_on"], ("host", "device"))
    if data["crop_on"] == "device":
        for name, view in data["views"].items():
            refuse_host_only(f"data.views.{name}", view)


def _statistics(data: Section) -> None:
    for key in ("mean", "std"):
        values = data[key]
        if len(values) != data["channels"]:
            raise ConfigError(
                f"data.{key} has {len(values)} values but data.channels is {data['channels']}; give one per channel "
                "(`mim-jax data stats` measures them)"
            )
        for value in values:
            if not isinstance(value, Real) or (key == "std" and not value > 0):
                raise ConfigError(
                    f"data.{key} = {tuple(values)}: {value} is not a {'positive ' * (key == 'std')}number"
                )


def _view(where: str, view: Section, channels: int) -> None:
    size = _pair(f"{where}.size", view["size"], "(height, width)")
    for side in size:
        _whole(f"{where}.size", side, 1)
    _one_of(f"{where}.crop", view["crop"], CROPS)
    _one_of(f"{where}.interpolation", view["interpolation"], FILTERS)
    _whole(f"{where}.count", view["count"], 1)
    for key in FRACTIONS:
        _share(f"{where}.{key}", view[key])
    for key in ("jitter_first", "normalize", "one_effect"):
        if not isinstance(view[key], bool):
            raise ConfigError(f"{where}.{key} = {view[key]!r} is neither True nor False")
    _colour(where, view, channels)
    _one_of(f"{where}.erase_mode", view["erase_mode"], MODES)
    _whole(f"{where}.erase_count", view["erase_count"], 1)
    try:
        policy = parse_policy(view["randaugment"])
    except ConfigError as error:
        raise ConfigError(f"{where}.randaugment: {error}") from error
    if policy is not None and channels not in (1, 3):
        raise ConfigError(
            f"{where}.randaugment needs grey or RGB images, but data.channels is {channels}; leave it empty"
        )
    low, high = _pair(f"{where}.scale", view["scale"], "(least, most)")
    if not 0 < low <= high <= 1:
        raise ConfigError(f"{where}.scale = ({low}, {high}) is not a range of area shares with 0 < least <= most <= 1")
    low, high = _pair(f"{where}.ratio", view["ratio"], "(least, most)")
    if not 0 < low <= high:
        raise ConfigError(f"{where}.ratio = ({low}, {high}) is not a range of width / height with 0 < least <= most")


def _colour(where: str, view: Section, channels: int) -> None:
    saturation, hue = view["color_jitter_saturation"], view["color_jitter_hue"]
    if not isinstance(saturation, Real) or not saturation <= 1:
        raise ConfigError(
            f"{where}.color_jitter_saturation = {saturation!r} is not a number up to 1; a negative one takes the value "
            "of color_jitter"
        )
    if not isinstance(hue, Real) or not 0 <= hue <= 0.5:
        raise ConfigError(f"{where}.color_jitter_hue = {hue!r} is not between 0 and 0.5, half of the colour circle")
    if view["one_effect"] and not (view["grayscale"] or view["blur"] or view["solarize"]):
        raise ConfigError(f"{where}.one_effect chooses among grayscale, blur and solarize; give at least one a share")
    low, high = _pair(f"{where}.blur_radius", view["blur_radius"], "(least, most)")
    if not 0 <= low <= high:
        raise ConfigError(f"{where}.blur_radius = ({low}, {high}) is not a range of pixels with 0 <= least <= most")
    for key in ("color_jitter_hue", "grayscale"):
        # Grey images have no hue and are grey already: a recipe for colours serves them too.
        if view[key] > 0 and channels not in (1, 3, 4):
            raise ConfigError(
                f"{where}.{key} = {view[key]} needs red, green and blue, but data.channels is {channels}; set it to 0"
            )


def _same_as(name: str, views: Section) -> None:
    where, view = f"data.views.{name}", views[name]
    others = [other for other in views if other != name and views[other]["same_as"] == ""]
    if view["same_as"] not in others:
        why = "is the view itself" if view["same_as"] == name else "is no view"
        if view["same_as"] in views and view["same_as"] != name:
            why = f"is itself the same as '{views[view['same_as']]['same_as']}'"
        hint = nearest(view["same_as"], others) or "; leave it empty"
        raise ConfigError(f"{where}.same_as = {view['same_as']!r} {why}{hint}")
    other, usual = views[view["same_as"]], recipes.view()
    if view["count"] != other["count"]:
        raise ConfigError(
            f"{where}.count = {view['count']}, but data.views.{view['same_as']}, whose crops it shares, has "
            f"{other['count']}; make them equal"
        )
    for key in SHARED:
        if _plain(view[key]) not in (_plain(other[key]), _plain(usual[key])):
            raise ConfigError(
                f"{where}.{key} = {view[key]!r} has no effect, because the view is the same as '{view['same_as']}' "
                f"(same_as); set data.views.{view['same_as']}.{key}"
            )
    if not CROPS[other["crop"]].any_size and tuple(view["size"]) != tuple(other["size"]):
        raise ConfigError(
            f"{where}.size = {tuple(view['size'])}, but data.views.{view['same_as']}, whose '{other['crop']}' crop it "
            f"shares, has {tuple(other['size'])}; make them equal, or crop with 'random_resized'"
        )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _pair(key: str, value: Any, form: str) -> tuple[Any, Any]:
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ConfigError(f"{key} = {value!r} is not a pair {form}")
    first, second = value
    if not all(isinstance(v, Real) for v in (first, second)):
        raise ConfigError(f"{key} = {value!r} is not a pair of numbers {form}")
    return first, second


def _whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} = {value!r} is not a whole number of at least {least}")


def _share(key: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise ConfigError(f"{key} = {value!r} is not between 0 and 1")


def _one_of(key: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ConfigError(f"{key} = {value!r} is not known{nearest(value, choices)}")
