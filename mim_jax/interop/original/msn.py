"""facebookresearch/msn: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result, Row
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.kinds.gradients import norms
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.rules import dense, norm, same, timm_vit, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.losses.prototypes import PrototypeLoss
from mim_jax.methods.base import Output
from mim_jax.methods.msn import FAMILY, MSN
from mim_jax.nn.sparse import blended

SIDES = {"encoder": ("params", "anchor"), "target_encoder": ("extra/target", "target")}
LAYERS = 3  # of the projector, which they number from 1
COUNTER = {r"num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}


def network(theirs: str, ours: str, side: str, batch_norm: bool) -> tuple[Rule, ...]:
    """Encoder and projector of one side, with the running statistics."""
    rules = [*timm_vit(f"{theirs}.")]
    statistics: list[Rule] = []
    for i in range(LAYERS):
        rules += dense(f"{theirs}.fc.fc{i + 1}", f"head/linear_{i}")
        if batch_norm and i < LAYERS - 1:
            place, kept = f"{theirs}.fc.bn{i + 1}", f"extra/statistics/{side}/norm_{i}"
            rules += norm(place, f"head/norm_{i}")
            statistics += same(f"{place}.running_mean", f"{kept}/mean") + same(f"{place}.running_var", f"{kept}/var")
    return (*under(ours, tuple(rules)), *statistics)


def layout(method: MSN) -> Layout:
    """Both networks and the prototypes."""
    rules = [*same("prototypes", "params/prototypes")]
    for theirs, (ours, side) in SIDES.items():
        rules += network(theirs, ours, side, method.head_norm == "batch")
    return Layout(NameMap(tuple(rules), ignored=COUNTER), patch_sizes(method.model))


def settings(case: Case) -> dict[str, Any]:
    """The section `method.assignment` of a case; what its config does not name is as in the released one."""
    c = case.config
    memax, entropy = float(c["memax_weight"]), float(c["ent_weight"])
    return dict(
        temperature=float(c["temperature"]),
        sharpening=float(c["sharpen"]),
        sharpening_end=float(c["sharpen"]),
        sinkhorn=3 if c["use_sinkhorn"] else 0,
        memax_weight=memax if c.get("me_max", True) else 0.0,
        entropy_weight=entropy if c.get("use_entropy", True) else 0.0,
        label_smoothing=float(c.get("label_smoothing", 0.0)),
    )


def reported(case: Case, terms: Mapping[str, Any]) -> dict[str, Any]:
    """The terms under the names of the cases; 0 where the original does not compute one."""
    zero, c = jnp.zeros(()), case.config
    return dict(
        loss_ce=terms["cross_entropy"],
        loss_memax=terms["memax"] if c.get("me_max", True) else zero,
        loss_entropy=terms["entropy"] if c.get("use_entropy", True) else zero,
    )


def view_major(array: Any) -> Any:
    """(B, V, ...) as the original orders anchors: (V B, ...)."""
    return jnp.moveaxis(array, 1, 0).reshape(-1, *array.shape[2:])


def tiled(targets: Any, views: int) -> Any:
    """The targets of all anchors, view by view."""
    return jnp.tile(targets, (views, 1))


def run_loss(case: Case) -> Result:
    """The loss alone, on given embeddings."""
    c = case.config
    loss, views, batch = PrototypeLoss.from_section(settings(case)), int(c["num_views"]), int(c["batch"])
    anchors, target = (jnp.asarray(case.inputs[f"{name}_embeddings"]) for name in ("anchor", "target"))
    prototypes = jnp.asarray(case.weights["prototypes"])
    counts = {"anchors": views * batch, "targets": batch, "prototypes": c["num_proto"]}
    for (name, count), array in zip(counts.items(), (anchors, target, prototypes), strict=True):
        if array.shape != (count, c["dim"]):
            raise VerifyError(f"{case.folder}: {name} of {array.shape}, but the config says {(count, c['dim'])}")

    @jax.jit
    def differentiate(anchors, prototypes):
        def total(anchors, prototypes):
            ordered = jnp.moveaxis(anchors.reshape(views, batch, -1), 0, 1)
            value, terms, arrays = loss(ordered, target, prototypes)
            return value, (terms, arrays)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(anchors, prototypes)

    (value, (terms, found)), (grad_anchor, grad_prototypes) = differentiate(anchors, prototypes)
    arrays = dict(loss=value, grad_anchor=grad_anchor, grad_prototypes=grad_prototypes, **reported(case, terms))
    arrays |= dict(targets=tiled(found["target"], views), targets_before_sinkhorn=found["sharp"])
    arrays["probs"] = view_major(jnp.exp(found["log_p"]))
    sizes: Mapping[str, float] = norms({"prototypes": np.asarray(grad_prototypes)})
    named = {"grad_names": {"grad_norms": sizes}}
    skipped = {"grad_dot_weight": "it is zero but for rounding; see the row above"}
    return Result(arrays, named, skipped, [along(case, grad_prototypes, prototypes)])


def along(case: Case, gradient: Any, weight: Any) -> Row:
    """The loss knows the directions of prototypes alone, so that its gradient has no part along them."""
    part = float(abs(np.vdot(gradient, weight)) / (np.linalg.norm(gradient) * np.linalg.norm(weight)))
    return Row("gradient along the prototypes", part <= case.strict, part, case.strict)


def pretraining(case: Case) -> Subject:
    """MSN as a case asks for it; the case's permutation decides what is dropped."""
    c, model = case.config, vit_config(case, "target_images", **FAMILY)
    local, size = int(c["focal_views"]), pair(c["focal_size"], "focal_size")
    section: dict[str, Any] = dict(whole_anchors=int(c["rand_views"]), local_crops=local)
    section["patch_drop"] = float(c["patch_drop"])
    section |= dict(head_hidden=c["hidden_dim"], head_outputs=c["output_dim"], prototypes=c["num_proto"])
    section |= dict(head_norm="batch" if c["use_bn"] else "none", assignment=settings(case), local_size=size)
    method = MSN.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        whole, batch = jnp.moveaxis(jnp.asarray(arrays["anchor_rand_images"]), 0, 1), int(c["batch"])
        given = {"image": whole[:, 0], "image2": jnp.asarray(arrays["target_images"]), "more": whole[:, 1:]}
        if local:
            given["local"] = jnp.moveaxis(jnp.asarray(arrays["anchor_focal_images"]), 0, 1)
        views = {name: given[name].reshape(view.array(batch)) for name, view in method.views().items()}
        order = jnp.asarray(arrays["patch_drop_order"]) if method.patch_drop else jnp.arange(model.tokens)
        noise = jnp.broadcast_to(jnp.argsort(order).astype(jnp.float32), (batch, method.passes[0][0], model.tokens))
        return views, {"noise": noise, "drop_path": [None] * len(method.passes), "target_drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        t, anchors = output.trace, output.trace["pred"]
        found = dict(targets=tiled(t["target"], anchors.shape[1]), z_target=t["target_embedding"])
        found |= dict(z_anchor=view_major(anchors), **reported(case, output.terms))
        return found | running(case, output.carry)

    return Subject(method, layout(method), inputs, outputs)


def running(case: Case, carry: Mapping[str, Any]) -> dict[str, Any]:
    """The running statistics after the pass, by the names of the cases."""
    found: dict[str, Any] = {}
    for theirs, (_, side) in SIDES.items():
        for i in range(len(carry[side][0])):
            place = f"{theirs}.fc.bn{i + 1}.running_"
            old = {name: jnp.asarray(case.weights[f"{place}{name}"]) for name in ("mean", "var")}
            new = blended(old, [moments[f"norm_{i}"] for moments in carry[side]])
            found |= {f"{side}_bn{i + 1}_{name}": value for name, value in new.items()}
    return found


SYSTEM = System(
    upstream="facebookresearch/msn",
    kinds={"loss": run_loss, "model": lambda case: pretrain.run(case, pretraining(case))},
)


def nest(arrays: Arrays) -> dict[str, Any]:
    """As the authors save it: both networks wrapped for parallel training, the prototypes alone."""
    sides = {side: authors.below(arrays, f"{side}.") for side in SIDES}
    wrapped = {side: {f"module.{name}": array for name, array in found.items()} for side, found in sides.items()}
    return {**wrapped, "prototypes": arrays["prototypes"]}


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of backbone, projector and prototypes."""
    widths = {"encoder.fc.fc1.weight": "method.head_hidden", "encoder.fc.fc3.weight": "method.head_outputs"}
    found = authors.sizes_show(arrays, widths | {"prototypes": "method.prototypes"}, {})
    return authors.vit_shows(arrays, "encoder.") | found


def refusal(method: MSN) -> str:
    """What the authors' networks cannot be."""
    return authors.vit_needs(method.model, {**authors.PLAIN, "positions": ("learned",)})


FORMATS = (
    authors.checkpoint(
        "msn",
        "all",
        accepts=lambda arrays: has(arrays, "encoder.fc.fc1.weight", "target_encoder.cls_token", "prototypes"),
        shows=shows,
        layout=layout,
        refusal=refusal,
        state=authors.networks,
        buffers=authors.counters,
        nest=nest,
        methods=("msn",),
    ),
)
