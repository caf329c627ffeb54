"""Steps of the LARS optimizer with given gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.methods.base import ParamGroups
from mim_jax.recipes import adamw
from mim_jax.training.optimizer import build


def run(case: Case) -> Result:
    """Inputs `x0` (start) and `gx` (steps, ...) for each parameter x; outputs `x` (steps, ...) after every step."""
    names = [name[:-1] for name in case.inputs if name.endswith("0")]
    if not names:
        raise VerifyError(f"{case.inputs.where} has no starting parameter such as 'w0'")
    params = {name: jnp.asarray(case.inputs[f"{name}0"]) for name in names}
    grads = {name: jnp.asarray(case.inputs[f"g{name}"]) for name in names}
    c = case.config
    settings = dict(lr=c["lr"], lr_batch=0, momentum=c["momentum"], weight_decay=c["weight_decay"])
    settings |= dict(name="lars", trust_coefficient=c["trust_coefficient"])
    optimizer = build({**adamw(), **settings}, ParamGroups(depth=0), params)

    @jax.jit
    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params, lr=c["lr"])
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry, history = (params, optimizer.init(params)), []
    for i in range(int(c["steps"])):
        carry, params = step(carry, {name: grad[i] for name, grad in grads.items()})
        history.append(params)
    return Result(arrays=jax.tree.map(lambda *leaves: jnp.stack(leaves), *history))
