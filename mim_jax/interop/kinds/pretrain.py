"""One forward and backward pass of a method with given random draws."""

from __future__ import annotations

from typing import Any

import jax

from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import gradient_columns
from mim_jax.interop.system import Subject
from mim_jax.methods.base import Progress, Variables
from mim_jax.training.groups import group_table, path_name

Tree = Any


def run(case: Case, subject: Subject, progress: Progress | None = None) -> Result:
    """Loss, everything `forward` reports, and gradients of all parameters that train.

    progress: where the run stands, for methods whose loss changes with it; the start by default.
    """
    batch, draws = subject.inputs(case.inputs)
    variables = subject.variables(case, batch)
    progress = progress or Progress.at(0, 1, 1)

    @jax.jit
    def differentiate(params):
        forward = lambda p: subject.method.forward(p, variables.extra, variables.frozen, batch, draws, progress)  # noqa: E731
        return jax.value_and_grad(forward, has_aux=True)(params)

    (loss, output), grads = differentiate(variables.params)
    params, grads = (Variables(params=trained(subject, tree)) for tree in (variables.params, grads))
    return Result(
        arrays={"loss": loss, **subject.outputs(output)},
        named=gradient_columns(subject.layout, params, grads),
        rows=subject.layout.table_rows(case),
    )


def trained(subject: Subject, params: Tree) -> Tree:
    """The parameters without those that the method's groups freeze."""
    table = group_table(subject.method.param_groups(), params)
    if not any(group.frozen for group in table.values()):
        return params
    return {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params) if not table[path_name(p)].frozen}
