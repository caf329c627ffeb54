"""The `data` section of a config as plain values, which worker processes can take with them."""

from __future__ import annotations

import dataclasses

from mim_jax.data.check import check
from mim_jax.data.maps import MapSettings, settings_of
from mim_jax.data.views import View
from mim_jax.section import Section


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the pipelines read of `data`; the names are those of the config."""

    source: str
    eval_source: str
    fraction: float
    balanced: bool
    per_class: int
    subset_seed: int
    channels: int
    workers: int
    threads: int
    prefetch: int
    on_error: str
    max_bad_fraction: float
    max_pixels: int
    decode: str
    cache: str
    cache_dir: str
    crop_on: str
    views: tuple[View, ...]
    maps: tuple[tuple[str, MapSettings], ...] = ()

    @classmethod
    def from_config(cls, data: Section) -> Settings:
        """Checks the section and copies it. Raises ConfigError, naming the key."""
        check(data)
        side = data["eval_resize"]
        return cls(
            source=data["source"],
            eval_source=data["eval_source"],
            fraction=float(data["fraction"]),
            balanced=bool(data["balanced"]),
            per_class=int(data["per_class"]),
            subset_seed=int(data["subset_seed"]),
            channels=int(data["channels"]),
            workers=int(data["workers"]),
            threads=int(data["threads"]),
            prefetch=int(data["prefetch"]),
            on_error=data["on_error"],
            max_bad_fraction=float(data["max_bad_fraction"]),
            max_pixels=int(data["max_pixels"]),
            decode=data["decode"],
            cache=data["cache"],
            cache_dir=data["cache_dir"],
            crop_on=data["crop_on"],
            views=tuple(
                View.from_config(name, data["views"], side, data["mean"], data["std"], data["decode"] == "fast")
                for name in data["views"]
            ),
            maps=settings_of(data),
        )

    def view(self, name: str) -> View:
        """A view by name; 'eval' is the evaluation transform at the size of the view `image`, or of the first."""
        by_name = {view.name: view for view in self.views}
        if name in by_name:
            return by_name[name]
        return by_name.get("image", self.views[0]).at_evaluation()
