"""bytedance/ibot: names of the arrays, its checkpoints (AttMask's too), and how its reference cases read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain, self_distillation
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.rules import LINEAR, dense, timm_vit, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.losses.distillation import Distillation, teacher_temperature
from mim_jax.masking.mixed_ratio import mixed_ratio_hidden
from mim_jax.methods.base import Method, Output, Progress
from mim_jax.methods.ibot import IBOT
from mim_jax.methods.self_distillation import FAMILY, SelfDistillation
from mim_jax.nn.patches import patch_grid
from mim_jax.nn.positions import resize_positions

MASKING = {"block": "block", "rand": "random"}
SYSTEMS = ("ibot", "attmask")  # whose authors save networks of this layout


def network(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Backbone and head of the student or the teacher."""
    head = f"{theirs}.head"
    layers = (("last_layer", "last_layer"), ("last_layer2", "last_layer_patches"))
    return under(
        ours,
        (
            *timm_vit(f"{theirs}.backbone."),
            Rule((f"{theirs}.backbone.masked_embed",), ("encoder/mask_token",), "one d -> 1 one d"),
            *(
                rule
                for n, name in enumerate(("fc1", "fc2", "fc3"))
                for rule in dense(f"{head}.mlp.{2 * n}", f"head/{name}")
            ),
            *(Rule((f"{head}.{t}.weight_g",), (f"head/{o}/gain",), LINEAR) for t, o in layers),
            *(Rule((f"{head}.{t}.weight_v",), (f"head/{o}/kernel",), LINEAR) for t, o in layers),
        ),
    )


CENTERS = (
    Rule(("loss.center",), ("extra/center",), "one k -> (one k)"),
    Rule(("loss.center2",), ("extra/patch_center",), "one two k -> (one two k)"),
)
TWICE = "the same layer as last_layer, stored twice where a head is shared"


def names(student_shared: bool, teacher_shared: bool) -> NameMap:
    """All arrays of a run; a shared last layer occurs twice in the original's files."""
    rules = [*network("student", "params"), *network("teacher", "extra/teacher"), *CENTERS]
    ignored = {}
    for side, shared in (("student", student_shared), ("teacher", teacher_shared)):
        if shared:
            rules = [rule for rule in rules if not rule.theirs[0].startswith(f"{side}.head.last_layer2.")]
            ignored[rf"^{side}\.head\.last_layer2\."] = TWICE
    return NameMap(rules=tuple(rules), ignored=ignored)


def layout(method: SelfDistillation) -> Layout:
    """Student, teacher and centres."""
    sizes = {**patch_sizes(method.model), "one": 1, "two": 1}
    return Layout(names(method.head.shared, method.head.teacher_shared), sizes)


def encoder_layout(method: Method) -> Layout:
    """The backbone alone, as it is published."""
    ignored = {"^masked_embed$": "what stands for a hidden patch, which is no part of the encoder"}
    return Layout(NameMap(under("params", timm_vit("")), ignored=ignored), patch_sizes(method.model))


def crop_major(array: Any) -> Any:
    """(B, S, ...) as the original orders crops in a batch: (S B, ...)."""
    return jnp.moveaxis(array, 1, 0).reshape(-1, *array.shape[2:])


def pretraining(case: Case) -> Subject:
    """iBOT as a case asks for it; the case's masks decide what is hidden."""
    c, model = case.config, vit_config(case, "global_images", **FAMILY)
    shared, crops = bool(c["shared_head"]), int(c["local_crops"])
    head = dict(outputs=c["out_dim"], patch_outputs=c["out_dim" if shared else "patch_out_dim"], shared=shared)
    head |= dict(teacher_shared=bool(c.get("shared_head_teacher", shared)), activation=c.get("act", "gelu"))
    head |= dict(hidden=c["head_hidden"], bottleneck=c["head_bottleneck"], train_gain=not c["norm_last_layer"])
    section = dict(head=head, local_crops=crops, masking=MASKING[c["pred_shape"]], distillation=settings(c))
    section |= dict(local_size=pair(c["local_size"], "local_size")) if crops else {}
    section["mask_start_epoch"] = int(c.get("mim_start_epoch", 0))
    section |= dict(ema_momentum=c["momentum"][0]) if "momentum" in c else {}
    method = IBOT.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        images, mask = jnp.asarray(arrays["global_images"]), jnp.asarray(arrays["mask"])
        if mask.shape[2:] != model.grid:
            raise VerifyError(f"{case.folder}: masks of {mask.shape[2:]} patches, but the model has {model.grid}")
        batch = {"image": images[0], "image2": images[1]}
        if crops:
            batch["local"] = jnp.moveaxis(jnp.asarray(arrays["local_images"]), 0, 1).reshape(
                method.views()["local"].array(images.shape[1])
            )
        hidden = jnp.moveaxis(mask.astype(bool).reshape(*mask.shape[:2], -1), 0, 1)
        return batch, {"hidden": hidden, "drop_path": None, "local_drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        trace = output.trace
        names = ("student_tokens", "teacher_tokens", "student_patch", "teacher_patch", "teacher_cls")
        found = {name: crop_major(trace[name]) for name in names}
        found |= {f"loss_{name}": value for name, value in output.terms.items()}
        found["student_cls"] = crop_major(trace["student_cls"][:, :2])
        if crops:
            found["student_local_cls"] = crop_major(trace["student_cls"][:, 2:])
            found["student_local_tokens"] = crop_major(trace["student_local_tokens"])
            table = jnp.asarray(case.weights["student.backbone.pos_embed"])
            local = patch_grid(method.local_size, model.patch_size)
            found["local_pos_embed"] = resize_positions(table, model.grid, local, 1, model.position_offset)
        before = {"center": case.weights["loss.center"][0], "patch_center": case.weights["loss.center2"][0, 0]}
        after = method.distillation.moved({k: jnp.asarray(v) for k, v in before.items()}, output.carry)
        return found | {"center_after": after["center"][None], "center2_after": after["patch_center"][None, None]}

    return Subject(method, layout(method), inputs, outputs)


def settings(c: Mapping[str, Any]) -> dict[str, Any]:
    """The `distillation` section of a case; temperatures warm up over 3 epochs where the case says nothing."""
    keys = {
        "lambda1": ("cls_weight", 1.0),
        "lambda2": ("patch_weight", 1.0),
        "student_temp": ("student_temperature", 0.1),
        "warmup_teacher_temp": ("temperature_start", 0.04),
        "teacher_temp": ("temperature", 0.07),
        "warmup_teacher_temp2": ("patch_temperature_start", 0.04),
        "teacher_temp2": ("patch_temperature", 0.07),
        "warmup_teacher_temp_epochs": ("warmup_epochs", 3),
        "center_momentum": ("center_momentum", 0.9),
        "center_momentum2": ("patch_center_momentum", 0.9),
    }
    return {ours: c.get(theirs, default) for theirs, (ours, default) in keys.items()}


def run_model(case: Case) -> Result:
    epoch = int(case.config["epoch"])
    return pretrain.run(case, pretraining(case), Progress.at(epoch, epoch + 1, 1))


def run_loss(case: Case) -> Result:
    """The loss alone, on given logits, for several steps between which the centres move."""
    c = case.config
    loss, delay, batch = Distillation.from_section(settings(c)), int(c.get("mim_start_epoch", 0)), int(c["batch"])
    centers = {"center": case.weights["center"][0], "patch_center": case.weights["center2"][0, 0]}
    centers = {name: jnp.asarray(value) for name, value in centers.items()}
    epochs = jnp.arange(float(c["epochs"]))
    ramp = (loss.temperature_start, loss.temperature, loss.warmup_epochs)
    patch_ramp = (loss.patch_temperature_start, loss.patch_temperature, loss.warmup_epochs, delay)
    arrays: dict[str, Any] = {
        "teacher_temp": jax.vmap(lambda epoch: teacher_temperature(epoch, *ramp))(epochs),
        "teacher_temp2": jax.vmap(lambda epoch: teacher_temperature(epoch, *patch_ramp))(epochs),
    }

    def image_major(array: Any) -> Any:
        array = jnp.asarray(array)
        return jnp.moveaxis(array.reshape(-1, batch, *array.shape[1:]), 0, 1)

    for step in range(int(c["steps"])):
        given = {name.removesuffix(f"_{step}"): case.inputs[name] for name in case.inputs if name.endswith(f"_{step}")}
        local = [image_major(given["student_local_cls"])] if "student_local_cls" in given else []
        teacher = image_major(given["teacher_cls"]), image_major(given["teacher_patch"])
        hidden = jnp.moveaxis(jnp.asarray(given["mask"]).astype(bool), 0, 1).reshape(*teacher[1].shape[:3])
        epoch = float(c["epoch_of_step"][step])

        def total(cls, patch, local=local, teacher=teacher, hidden=hidden, epoch=epoch, centers=centers):
            student = jnp.concatenate([cls, *local], axis=1), patch
            terms, _ = loss.compare(student, teacher, centers, hidden, epoch, delay)
            return sum(terms.values()), terms

        logits = image_major(given["student_cls"]), image_major(given["student_patch"])
        (value, terms), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(*logits)
        centers = loss.moved(centers, loss.means(teacher))
        arrays |= {f"loss_{step}": value, **{f"loss_{name}_{step}": term for name, term in terms.items()}}
        arrays |= {f"grad_student_{n}_{step}": crop_major(g) for n, g in zip(("cls", "patch"), grads, strict=True)}
        arrays[f"center_{step}"] = centers["center"][None]
        arrays[f"center2_{step}"] = centers["patch_center"][None, None]
    return Result(arrays=arrays)


def masks(key: Any, count: int, config: Mapping[str, Any]) -> np.ndarray:
    """Masks as the `config` of a file of statistics asks for them."""
    grid = pair(config["grid"], "grid")
    ratios, spreads = (np.atleast_1d(config[name]).tolist() for name in ("pred_ratio", "pred_ratio_var"))
    spreads = spreads * (len(ratios) // len(spreads))
    low, high = config["aspect"]
    if abs(low * high - 1) > 1e-6:
        raise VerifyError(f"rectangles of aspects between {low} and {high}, which are not each other's inverse")
    shape = MASKING[config["pred_shape"]]
    draw = jax.jit(lambda k: mixed_ratio_hidden(k, count, grid, tuple(ratios), tuple(spreads), shape, min_aspect=low))
    return np.asarray(draw(key)).reshape(count, *grid)


SYSTEM = System(
    upstream="bytedance/ibot",
    kinds={
        "loss": run_loss,
        "model": run_model,
        "train": lambda case: self_distillation.run(case, pretraining(case)),
    },
    references=(mask_statistics.reference(masks),),
)


def state(source: Source) -> Arrays:
    """Student, teacher, and the centres of the loss."""
    return {re.sub(r"^ibot_loss\.", "loss.", name): array for name, array in authors.networks(source).items()}


def nest(arrays: Arrays) -> dict[str, Any]:
    """As the authors save it: the student wrapped for parallel training, the teacher not."""
    student = {f"module.{name}": array for name, array in authors.below(arrays, "student.").items()}
    return {
        "student": student,
        "teacher": authors.below(arrays, "teacher."),
        "ibot_loss": authors.below(arrays, "loss."),
    }


def teacher_backbone(source: Source) -> Arrays:
    """The arrays of a published backbone, or those of the teacher in a whole checkpoint."""
    return authors.below(authors.networks(source), "teacher.backbone.") or authors.network(source)


def is_backbone(arrays: Arrays) -> bool:
    """A vision transformer alone."""
    named = has(arrays, "cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias")
    return named and not any(name.startswith(("decoder_", "head.")) for name in arrays)


def buffers(method: SelfDistillation, arrays: Arrays) -> Arrays:
    """A shared last layer, a second time."""
    sides = {"student": method.head.shared, "teacher": method.head.teacher_shared}
    shared = [f"{side}.head.last_layer" for side, is_shared in sides.items() if is_shared]
    return {f"{name}2.{weight}": arrays[f"{name}.{weight}"] for name in shared for weight in ("weight_g", "weight_v")}


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of backbone and head."""
    head = {"mlp.0.weight": "hidden", "mlp.4.weight": "bottleneck", "last_layer.weight_g": "outputs"}
    widths = {f"student.head.{name}": f"method.head.{key}" for name, key in head.items()}
    return authors.vit_shows(arrays, "student.backbone.") | authors.sizes_show(arrays, widths, {})


def encoder_refusal(method: Method) -> str:
    """What the authors' backbone cannot be."""
    return authors.vit_needs(method.model, {**authors.PLAIN, "positions": ("learned",)})


def refusal(method: SelfDistillation) -> str:
    """What the authors' networks cannot be."""
    return encoder_refusal(method) or authors.needs(method.head, {"norm": ("none",)}, "method.head")


FORMATS = (
    authors.checkpoint(
        "ibot",
        "all",
        accepts=lambda arrays: has(arrays, "student.backbone.cls_token", "teacher.backbone.cls_token", "loss.center"),
        shows=shows,
        layout=layout,
        refusal=refusal,
        state=state,
        buffers=buffers,
        nest=nest,
        methods=SYSTEMS,
    ),
    authors.checkpoint(
        "ibot",
        "encoder",
        accepts=is_backbone,
        shows=authors.vit_shows,
        layout=encoder_layout,
        refusal=encoder_refusal,
        state=teacher_backbone,
        nest=lambda arrays: {"state_dict": arrays},
        methods=SYSTEMS,
    ),
)
