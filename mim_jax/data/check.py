"""Checks of the `data` section of a config, before anything is opened."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from mim_jax.data.resize import FILTERS
from mim_jax.data.sources import parse
from mim_jax.data.views import CROPS
from mim_jax.errors import ConfigError, DataError, nearest
from mim_jax.section import Section

RESERVED = ("index", "label", "valid", "eval", "bad", "fatal")
Real = (int, float)  # NumPy's float64 is a float too
LEAST = {"channels": 1, "eval_resize": 1, "workers": 0, "threads": 1, "prefetch": 1, "max_pixels": 1}


def check(data: Section) -> None:
    """Refuses impossible values. Raises ConfigError naming the key `data....`, the value and what is valid."""
    for key in ("source", "eval_source"):
        if key == "source" or data[key]:
            try:
                parse(data[key])
            except DataError as error:
                raise ConfigError(f"data.{key}: {error}") from error
    for key, least in LEAST.items():
        _whole("data." + key, data[key], least)
    _share("data.max_bad_fraction", data["max_bad_fraction"])
    _one_of("data.on_error", data["on_error"], ("stop", "skip"))
    _statistics(data)
    if not data["views"]:
        raise ConfigError("data.views is empty; it needs at least one view, such as 'image'")
    for name, view in data["views"].items():
        if name in RESERVED:
            raise ConfigError(f"data.views.{name}: the name '{name}' is taken; call the view for example 'image'")
        _view(f"data.views.{name}", view)


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


def _view(where: str, view: Section) -> None:
    size = _pair(f"{where}.size", view["size"], "(height, width)")
    for side in size:
        _whole(f"{where}.size", side, 1)
    _one_of(f"{where}.crop", view["crop"], CROPS)
    _one_of(f"{where}.interpolation", view["interpolation"], FILTERS)
    _share(f"{where}.flip", view["flip"])
    _share(f"{where}.color_jitter", view["color_jitter"])
    low, high = _pair(f"{where}.scale", view["scale"], "(least, most)")
    if not 0 < low <= high <= 1:
        raise ConfigError(f"{where}.scale = ({low}, {high}) is not a range of area shares with 0 < least <= most <= 1")
    low, high = _pair(f"{where}.ratio", view["ratio"], "(least, most)")
    if not 0 < low <= high:
        raise ConfigError(f"{where}.ratio = ({low}, {high}) is not a range of width / height with 0 < least <= most")


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
