"""The classifier on top of an encoder: the one it was fine-tuned with, or a linear probe trained for the purpose."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from mim_jax.evaluation.encoders import shapes_of
from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.protocol import Task, top
from mim_jax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Head:
    """logits = features @ weight + bias, for the feature of that name.

    trained: 'fine-tuned' where it came with the encoder, else 'linear probe'.
    """

    weight: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]
    feature: str
    trained: str

    def logits(self, features: FeatureSet | Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        """Logits of vectors, or of the images of a set."""
        vectors = features.features[self.feature] if isinstance(features, FeatureSet) else features
        return vectors @ self.weight + self.bias


def scores(
    logits: Float[np.ndarray, "N K"], truth: Int[np.ndarray, " N"]
) -> tuple[dict[str, float], Bool[np.ndarray, " N"]]:
    """Shares by name with the mean cross-entropy `loss`, and of each image whether its best class is its own.

    `top5` where there are more than five classes. Equal logits: the smaller number comes first.
    """
    values, classes = jnp.asarray(logits), logits.shape[1]
    ranked = np.asarray(jax.lax.top_k(values, min(5, classes))[1])
    loss = optax.softmax_cross_entropy_with_integer_labels(values, jnp.asarray(truth)).mean()
    return {**top(ranked, truth, classes), "loss": float(loss)}, ranked[:, 0] == truth


def head_feature(method: Method, probe: Linear) -> str:
    """The feature that `head_of` will read: what the fine-tuned head receives, or the linear probe's."""
    own = jax.eval_shape(method.classifier, shapes_of(method).params)
    return probe.feature if own is None else "pooled"


def head_of(task: Task) -> Head:
    """The head of the task's encoder, trained once per task.

    A fine-tuned encoder has its own (`Method.classifier`). Else the linear probe of `evaluation.linear` is trained on
    the training images; its batch norm, which is linear once its statistics stand, becomes part of weight and bias.

    Raises:
        ConfigError: the probe diverged.
    """
    if "head" not in task.memo:
        task.memo["head"] = _own(task) or _probe(task)
    return task.memo["head"]


def _own(task: Task) -> Head | None:
    method = task.encoder.method
    own = None if method is None else method.classifier(task.encoder.variables.params)
    if own is None:
        return None
    weight, bias = own
    return Head(np.asarray(weight, np.float32), np.asarray(bias, np.float32), "pooled", "fine-tuned")


def _probe(task: Task) -> Head:
    probe = Linear.from_config(task.evaluation)
    plan, state, _ = probe.fit(task)
    head, statistics = state.params["head"], state.batch_stats["norm"]
    scale = 1 / np.sqrt(np.asarray(statistics["var"]) + plan.model.norm_epsilon)
    weight = np.asarray(head["kernel"]) * scale[:, None]
    bias = np.asarray(head["bias"]) - np.asarray(statistics["mean"]) @ weight
    return Head(weight, bias, task.encoder.feature(probe.feature), "linear probe")
