"""The config of a run: what differs from the shared recipe, what changed on the way, and the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.report import html
from mim_jax.report.run_files import RunFiles

ABSENT = "–"
OWN = ("model.", "method.")  # sections for which the recipe has no defaults


def part(run: RunFiles) -> str:
    """The section of the page."""
    mine = configs.flat(run.config)
    usual = defaults(mine)
    own = [(key, shown(value)) for key, value in mine.items() if key.startswith(OWN)]
    other = [
        (key, shown(usual.get(key, ABSENT)), shown(value)) for key, value in mine.items()
        if not key.startswith(OWN) and (key not in usual or shown(usual[key]) != shown(value))
    ]  # fmt: skip
    changed = [
        [change.get("step"), change.get("key"), shown(change.get("before")), shown(change.get("after"))]
        for change in run.changes
    ]
    everything = html.table(("key", "value"), [(k, shown(v)) for k, v in mine.items()], keys=(0, 1), name="config")
    return "\n".join(
        (
            html.heading(
                f"different from the recipe ({len(other)} of {len(mine)})",
                html.table(("key", "recipe", "this run"), other, keys=(0, 1, 2), first=2, name="what differs"),
            ),
            html.heading("changed on the way", html.table(("from step", "key", "before", "after"), changed, keys=(1,))),
            html.details("model and method", html.table(("key", "value"), own, keys=(0, 1), name="model and method")),
            html.details("every setting", everything),
        )
    )


def differing(configs_of: Mapping[str, Any]) -> list[list[str]]:
    """[key, value of each run] for every key in which runs differ, in the order of the first config that has it."""
    flat = [{key: shown(value) for key, value in configs.flat(config).items()} for config in configs_of.values()]
    keys = {key: None for one in flat for key in one}
    rows = [[key, *(one.get(key, ABSENT) for one in flat)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def defaults(mine: Mapping[str, Any]) -> dict[str, Any]:
    """The shared recipe's value of every key; a view has those of `recipes.view` whatever its name."""
    found = configs.flat(recipes.pretrain())
    view = recipes.view()
    for key in mine:
        words = key.split(".")
        if words[:2] == ["data", "views"] and len(words) == 4 and words[3] in view:
            found.setdefault(key, view[words[3]])
    return found


def shown(value: Any) -> str:
    """A value as one writes it; lists and tuples alike, since JSON does not tell them apart."""
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(shown(v) for v in value)})"
    return f"{value:g}" if isinstance(value, float) and f"{value:g}" and float(f"{value:g}") == value else str(value)
