"""An attentive probe in training: encoder, one cross-attention of a learned query, batch norm, linear layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import gradient_columns
from mim_jax.interop.system import Layout
from mim_jax.models.attentive import AttentiveProbe
from mim_jax.models.vit import Vit


def run(case: Case, encoder: Vit, probe: AttentiveProbe, layout: Layout) -> Result:
    """Loss of one batch, its gradients in all parameters (those of the encoder too), logits and features.

    The tree that `layout` names has the two entries `backbone` and `probe`.
    """
    images, labels = jnp.asarray(case.inputs["images"]), jnp.asarray(case.inputs["labels"])
    key = jax.random.key(0)
    backbone = jax.eval_shape(encoder.init, key, images)
    tokens, _ = jax.eval_shape(encoder.apply, backbone, images)
    like = {"backbone": backbone, "probe": jax.eval_shape(lambda x: probe.init(key, x, train=False), tokens)}
    variables = layout.load(case, like)
    statistics = variables["probe"]["batch_stats"]

    @jax.jit
    def differentiate(params):
        def loss_of(params):
            tokens, _ = encoder.apply(params["backbone"], images)
            state = {**params["probe"], "batch_stats": statistics}
            out, _ = probe.apply(state, tokens, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(out.logits, labels).mean(), out

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    params = {"backbone": variables["backbone"], "probe": {"params": variables["probe"]["params"]}}
    (loss, out), grads = differentiate(params)
    return Result(
        arrays={"loss": loss, "logits": out.logits, "features": out.features},
        named=gradient_columns(layout, params, grads),
        rows=layout.table_rows(case),
    )
