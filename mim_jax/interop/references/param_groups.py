"""Weight decay and learning-rate scale of every parameter against a table of the original."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.compare import Row, compare_entries, compare_names
from mim_jax.interop.name_map import spread
from mim_jax.interop.system import Layout
from mim_jax.methods.base import ParamGroups
from mim_jax.training.groups import group_table

TOLERANCE = 1e-6
Tree = Any


def group_rows(
    title: str,
    expected: Mapping[str, Mapping[str, float]],
    settings: Mapping[str, Any],
    layout: Layout,
    like: Tree,
    groups: ParamGroups,
) -> list[Row]:
    """One row for the names and one for each column (`weight_decay`, `lr_scale`) of the table `expected`.

    settings: `weight_decay` and, where learning rates are scaled, `layer_decay`. like: tree with the entry `params`.
    """
    params = like["params"] if isinstance(like, Mapping) else like.params
    table = group_table(groups, params, layer_decay=float(settings.get("layer_decay", 1.0)))
    values = {
        "weight_decay": {path: settings["weight_decay"] * group.decay for path, group in table.items()},
        "lr_scale": {path: group.lr_scale for path, group in table.items()},
    }
    names = np.asarray(list(expected))
    rows: list[Row] = []
    for column in next(iter(expected.values())):
        if column not in values:
            raise VerifyError(f"a table of parameter groups has the column '{column}'; known: {', '.join(values)}")
        by_path = {f"params/{path}": value for path, value in values[column].items()}
        found = spread(layout.names, like, by_path, layout.sizes)
        if not rows:
            rows.append(compare_names(f"{title}: parameters", names, found))
        column_values = np.asarray([entry[column] for entry in expected.values()])
        rows += compare_entries(f"{title}: {column}", column_values, names, found, TOLERANCE)
    return rows


def block_count(names: Mapping[str, Any], prefix: str) -> int:
    """How many numbered blocks the names `prefix.0...`, `prefix.1...` speak of."""
    found = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in names]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)
