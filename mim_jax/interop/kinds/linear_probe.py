"""A linear probe in training: frozen encoder, batch norm without affine, linear layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import gradient_columns
from mim_jax.interop.system import Layout
from mim_jax.models.classifier import Classifier
from mim_jax.models.probe import LinearProbe


def run(case: Case, encoder: Classifier, layout: Layout) -> Result:
    """Loss and gradients of the head on one batch, and the running statistics after it.

    encoder: a classifier without head; only the probe is differentiated. The tree that `layout` names has the two
    entries `backbone` and `probe`.
    """
    images, labels = jnp.asarray(case.inputs["images"]), jnp.asarray(case.inputs["labels"])
    probe = LinearProbe(int(case.config["classes"]))
    key = jax.random.key(0)
    like = {"backbone": jax.eval_shape(encoder.init, key, images)}
    shape = jax.eval_shape(encoder.apply, like["backbone"], images).features
    like["probe"] = jax.eval_shape(lambda x: probe.init(key, x, train=False), jnp.zeros(shape.shape))
    variables = layout.load(case, like)
    features = jax.jit(encoder.apply)(variables["backbone"], images).features
    statistics = variables["probe"]["batch_stats"]

    @jax.jit
    def differentiate(params):
        def loss_of(params):
            state = {"params": params, "batch_stats": statistics}
            logits, moved = probe.apply(state, features, train=True, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits, moved["batch_stats"]["norm"])

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    params = variables["probe"]["params"]
    (loss, (logits, moved)), grads = differentiate(params)
    arrays = {"loss": loss, "logits": logits, "features": features}
    arrays |= {"running_mean_after": moved["mean"], "running_var_after": moved["var"]}
    head, head_grads = ({"probe": {"params": tree}} for tree in (params, grads))
    return Result(arrays=arrays, named=gradient_columns(layout, head, head_grads), rows=layout.table_rows(case))
