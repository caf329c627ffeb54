"""A classifier: logits, features, cross-entropy and its gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import gradient_columns
from mim_jax.interop.system import Layout
from mim_jax.models.classifier import Classifier


def run(case: Case, model: Classifier, layout: Layout) -> Result:
    """Mean cross-entropy of the logits against the labels, differentiated in all parameters."""
    images, labels = jnp.asarray(case.inputs["images"]), jnp.asarray(case.inputs["labels"])
    variables = layout.load(case, jax.eval_shape(model.init, jax.random.key(0), images))

    @jax.jit
    def differentiate(variables):
        def loss_of(variables):
            out = model.apply(variables, images, layers=True)
            return optax.softmax_cross_entropy_with_integer_labels(out.logits, labels).mean(), out

        return jax.value_and_grad(loss_of, has_aux=True)(variables)

    (loss, out), grads = differentiate(variables)
    return Result(
        arrays={
            "loss": loss,
            "logits": out.logits,
            "features": out.features,
            "block_features": jnp.stack(out.layers),
        },
        named=gradient_columns(layout, variables, grads),
        rows=layout.table_rows(case),
    )
