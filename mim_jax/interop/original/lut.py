"""naver-ai/lut: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors, mae_case
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule, to_theirs
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import LINEAR, norm, same
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.methods.base import Output, Progress
from mim_jax.methods.lut import LUT

HEADS = {"head": "projector", "predictor": "predictor"}
SIDES = {"student": ("params", "extra/statistics"), "ema": ("extra/teacher/params", "extra/teacher/statistics")}
ACTIVATIONS = {"relu": "relu", "gelu": "gelu"}
NORMS = {"bn": "batch", "none": "none"}


def names(method: LUT) -> NameMap:
    """Both copies of the whole model; the numbers of a head's layers depend on whether there is batch norm."""
    step = 3 if method.head_norm == "batch" else 2
    depths = {"head": method.projector_depth, "predictor": method.predictor_depth}
    rules: list[Rule] = []
    for side, (params, statistics) in SIDES.items():
        own = [*mae_case.backbone(f"{side}."), *mae_case.decoder(f"{side}.")]
        for theirs, ours in HEADS.items():
            for i in range(depths[theirs]):
                layer = f"{side}.{theirs}.{step * i}.weight"
                own.append(Rule((layer,), (f"{ours}/linear_{i}/kernel",), LINEAR))
                if step == 3 and i < depths[theirs] - 1:
                    place = f"{side}.{theirs}.{step * i + 1}"
                    own += norm(place, f"{ours}/norm_{i}")
                    rules += same(f"{place}.running_mean", f"{statistics}/{ours}/norm_{i}/mean")
                    rules += same(f"{place}.running_var", f"{statistics}/{ours}/norm_{i}/var")
        rules += [dataclasses.replace(r, ours=tuple(f"{params}/{path}" for path in r.ours)) for r in own]
    tables = [f"{side}.{name}" for side in SIDES for name in ("pos_embed", "decoder_pos_embed")]
    counters = {r"num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}
    return NameMap(tuple(rules), computed=dict.fromkeys(tables, FIXED), ignored=counters)


def layout(method: LUT) -> Layout:
    """Student and moving average, with the position tables of either."""
    tables = {f"{side}.{name}": table for side in SIDES for name, table in mae_case.tables(method).items()}
    return Layout(names(method), patch_sizes(method.model), tables)


def one_of(case: Case, key: str, known: Mapping[str, str]) -> str:
    value = str(case.config.get(key, "none")).lower()
    if value not in known:
        raise VerifyError(f"{case.folder}: config.{key} '{case.config[key]}' is none of {', '.join(known)}")
    return known[value]


def pretraining(case: Case) -> Subject:
    """LUT as a case asks for it; one noise masks both views."""
    c, model = case.config, dataclasses.asdict(vit_config(case, "images_view1"))
    section: dict[str, Any] = dict(
        broad_weight=float(c["w_bc"]),
        reconstruction_weight=float(c["w_mae"]),
        projector_depth=int(c["depth_head"]),
        predictor_depth=int(c["depth_pred"]),
        head_hidden=int(c["head_mlp_dim"]),
        head_norm=one_of(case, "head_norm", NORMS),
        head_activation=one_of(case, "head_act", ACTIVATIONS),
        ema_momentum=float(c["ema_decay"]),
    )
    method = LUT.from_config(model, mae_case.decoder_settings(case) | section)

    def inputs(arrays: Mapping[str, Any]):
        views = {"image": jnp.asarray(arrays["images_view1"]), "image2": jnp.asarray(arrays["images_view2"])}
        mask = mae_case.masked_by_noise(case, method, arrays)
        return views, {"mask": mask, "drop_path": None, "drop_path2": None}

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases; the second view's mask follows from the first's."""
    t, found = output.trace, mae_case.outputs(output)
    mask = t["mask"]
    shown = jax.nn.one_hot(mask.masked[:, : mask.visible.shape[1]], mask.hidden.shape[1]).sum(1)
    by_view = {"q_student": t["student"], "q_teacher": t["teacher"]}
    return found | {
        "loss_mae": output.terms["reconstruction"],
        "loss_bc": output.terms["broad"],
        "mask_view1": mask.hidden,
        "mask_view2": shown == 0,
        "latent1": t["latent"],
        "latent2": t["latent2"],
        **{name: jnp.concatenate([vectors[:, 0], vectors[:, 1]]) for name, vectors in by_view.items()},
        "carry": output.carry,
    }


def run(case: Case) -> Result:
    """The pass, and the moving average after one update at the start of a run."""
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    batch, draws = subject.inputs(case.inputs)
    variables, first = subject.variables(case, batch), Progress.at(0, 1, 1)
    output = Output(carry=result.arrays.pop("carry"))
    extra = jax.jit(subject.method.update)(variables.extra, variables.params, output, first)
    arrays = to_theirs(subject.layout.names, {"params": variables.params, "extra": extra}, subject.layout.sizes)
    arrays |= {name: np.asarray(table) for name, table in subject.layout.tables.items()}
    sums = {
        re.sub(r"^ema\.", "", name): float(np.sum(np.asarray(array, np.float64)))
        for name, array in arrays.items()
        if name.startswith("ema.")
    }
    prefix = "" if not str(case.outputs["ema_names"][0]).startswith("ema.") else "ema."
    result.named["ema_names"] = {"ema_sum": {f"{prefix}{name}": total for name, total in sums.items()}}
    return result


SYSTEM = System(upstream="naver-ai/lut", only=run)

FILES = {"model": "student", "model_ema": "ema"}  # keys of a checkpoint, and sides as the cases name them


def state(source: Source) -> Arrays:
    """The arrays of a checkpoint as the cases name them."""
    split = {name: name.partition(".") for name in source.arrays}
    return {f"{FILES.get(key, key)}.{rest}": source.arrays[name] for name, (key, _, rest) in split.items()}


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of encoder, decoder and heads."""
    head = {"student.head.0.weight": "method.head_hidden"} if "student.head.1.weight" in arrays else {}
    return mae_case.shows(arrays, "student.") | authors.sizes_show(arrays, head, {})


FORMATS = (
    authors.checkpoint(
        "lut",
        "all",
        accepts=lambda arrays: authors.has(arrays, "student.decoder_pred.weight", "ema.cls_token"),
        shows=shows,
        layout=layout,
        refusal=mae_case.refusal,
        state=state,
        buffers=authors.counters,
        nest=lambda arrays: {key: authors.below(arrays, f"{side}.") for key, side in FILES.items()},
        methods=("lut",),
    ),
)
