"""EPFL-VILAB/MultiMAE: names of the arrays, its masks, its checkpoints, and how its reference cases read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case, Reading
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import LINEAR, dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.masking.multimodal import MultimodalMask, mask_from_shares
from mim_jax.methods.base import Output
from mim_jax.methods.multimae import MultiMAE
from mim_jax.models.modalities import Modality
from mim_jax.models.multimae import decoder_positions
from mim_jax.models.vit import fixed_positions
from mim_jax.models.vit_config import VitConfig

PREFIX = "model."  # in the cases, whose weights hold the balance of the losses too


def input_rules(prefix: str, name: str) -> tuple[Rule, ...]:
    """The embedding of one modality."""
    theirs, axes = f"{prefix}input_adapters.{name}", f"_{name}"
    pattern = f"d c{axes} p{axes} q{axes} -> (p{axes} q{axes} c{axes}) d"
    return (
        *dense(f"{theirs}.proj", f"encoder/patch_embed_{name}/proj", pattern),
        *same(f"{theirs}.class_emb.weight", f"encoder/class_embed_{name}"),
    )


def output_rules(prefix: str, name: str, inputs: tuple[str, ...]) -> tuple[Rule, ...]:
    """One decoder; keys and values are one layer of theirs, and the values of a patch run over the channels first."""
    theirs, ours, axes = f"{prefix}output_adapters.{name}", f"decoders/{name}", f"_o_{name}"
    values = f"(c{axes} p{axes} q{axes})"
    turned = f"(p{axes} q{axes} c{axes})"
    keys = tuple(f"{ours}/cross_attn/{n}" for n in "kv")
    return (
        *dense(f"{theirs}.proj_context", f"{ours}/embed"),
        *same(f"{theirs}.mask_token", f"{ours}/mask_token"),
        *(rule for n in inputs for rule in same(f"{theirs}.task_embeddings.{n}", f"{ours}/modality_{n}")),
        *norm(f"{theirs}.query_norm", f"{ours}/norm_query"),
        *norm(f"{theirs}.context_norm", f"{ours}/norm_context"),
        *norm(f"{theirs}.out_norm", f"{ours}/norm_out"),
        *dense(f"{theirs}.decoder.q", f"{ours}/cross_attn/q"),
        Rule((f"{theirs}.decoder.kv.weight",), tuple(f"{key}/kernel" for key in keys), LINEAR),
        Rule((f"{theirs}.decoder.kv.bias",), tuple(f"{key}/bias" for key in keys)),
        *dense(f"{theirs}.decoder.proj", f"{ours}/cross_attn/proj"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
        *timm_block(f"{theirs}.decoder_transformer.{{i}}", f"{ours}/blocks_{{i}}"),
        Rule((f"{theirs}.out_proj.weight",), (f"{ours}/head/kernel",), f"{values} i -> i {turned}"),
        Rule((f"{theirs}.out_proj.bias",), (f"{ours}/head/bias",), f"{values} -> {turned}"),
    )


def layout(method: MultiMAE, prefix: str = "") -> Layout:
    """The pretrained network; prefix: what its names begin with."""
    c, known = method.model, dict(method.modalities)
    rules = [*same(f"{prefix}global_tokens", "encoder/global_tokens")]
    rules += [*timm_block(f"{prefix}encoder.{{i}}", "encoder/blocks_{i}")]
    rules += [*same("balancer.log_vars", "balance/log_variances")]
    sizes, tables = {}, {}

    def measure(axes: str, modality: Modality, channels: int) -> None:
        sides = zip("pq", modality.side(c.patch_size), strict=True)
        sizes.update({f"{axis}{axes}": side for axis, side in sides} | {f"c{axes}": channels})

    def table(name: str, values: Any) -> None:
        tables[f"{prefix}{name}.pos_emb"] = rearrange(np.asarray(values), "(h w) d -> 1 d h w", h=c.grid[0])

    for name in method.inputs:
        rules += input_rules(prefix, name)
        measure(f"_{name}", known[name], known[name].embedding if known[name].classes else known[name].channels)
        table(f"input_adapters.{name}", fixed_positions(c, c.grid))
    for name, task in method.tasks.items():
        rules += output_rules(prefix, name, method.inputs)
        measure(f"_o_{name}", task.modality, task.modality.classes or task.modality.channels)
        table(f"output_adapters.{name}", decoder_positions(c, method.decoder_width))
    return Layout(NameMap(under("params", tuple(rules)), dict.fromkeys(tables, FIXED)), sizes, tables)


def modality(case: Case, name: str) -> dict[str, Any]:
    """The section of a modality of the cases: rgb, depth or semseg.

    Raises:
        VerifyError: another one.
    """
    c = case.config
    if name == "semseg":
        given = dict(source="given", stride=4, classes=int(c["num_classes"]), embedding=int(c["dim_class_emb"]))
        return given | {"loss": "cross_entropy"}
    if name not in ("rgb", "depth"):
        raise VerifyError(f"{case.folder}: '{name}' is none of the domains rgb, depth and semseg")
    return dict(source="image") if name == "rgb" else dict(source="given", channels=1, loss="l1")


def pretraining(case: Case) -> Subject:
    """MultiMAE as a case asks for it; the case's ids decide what is visible."""
    c = case.config
    inputs, outputs = tuple(c["in_domains"]), tuple(c["out_domains"])
    names = sorted({name.removeprefix("norm_") for name in inputs + outputs} | {"rgb"})
    side, patch = pair(c["img_size"], "img_size"), pair(c["patch_size"], "patch_size")
    model = dict(image_size=side, patch_size=patch, width=c["embed_dim"], depth=c["depth"], heads=c["num_heads"])
    section = dict(
        modalities={name: modality(case, name) for name in names},
        inputs=inputs,
        outputs=outputs,
        visible_tokens=int(c["num_encoded_tokens"]),
        global_tokens=int(c["num_global_tokens"]),
        decoder_width=c["decoder_dim"],
        decoder_depth=c["decoder_depth"],
        decoder_heads=c["decoder_num_heads"],
        own_tokens=bool(c["use_task_queries"]),
        uncertainty=bool(c["uncertainty_weighting"]),
    )
    c.get("full_first_modality", [])  # what is visible is in the arrays
    method = MultiMAE.from_config(model | {"mlp_ratio": float(c["mlp_ratio"])}, section)
    if "rgb" not in case.inputs:
        raise VerifyError(f"{case.folder}: the arrays have no 'rgb', by which images are known here")

    def read(arrays: Reading | Mapping[str, Any]):
        batch = {"image" if name == "rgb" else name: jnp.asarray(arrays[name]) for name in names}
        mask = MultimodalMask(jnp.asarray(arrays["ids_keep"]), jnp.asarray(arrays["ids_restore"]))
        found = mask.hidden(len(inputs))
        for name, hidden in zip(inputs, found, strict=True):
            if not np.array_equal(np.asarray(hidden), np.asarray(arrays[f"mask_{name}"]) > 0):
                raise VerifyError(f"{case.folder}: 'mask_{name}' is not what ids_keep and ids_restore leave hidden")
        return batch, {"mask": mask, "drop_path": None}

    def report(output: Output) -> dict[str, Any]:
        found, grid = {}, method.model.grid
        for name, task in method.tasks.items():
            p, q = task.modality.side(method.model.patch_size)
            rows = output.trace["predictions"][name]
            found[f"pred_{name}"] = rearrange(
                rows, "b (h w) (p q c) -> b (h p) (w q) c", h=grid[0], w=grid[1], p=p, q=q
            )
            found[f"loss_{name}"] = output.trace["losses"][name]
        weighted = jnp.stack([jnp.asarray(output.terms[name]) for name in outputs])
        return found | {"encoder_tokens": output.trace["latent"], "weighted_losses": weighted}

    prefix = PREFIX if any(name.startswith(PREFIX) for name in case.weights) else ""
    return Subject(method, layout(method, prefix), read, report)


def run(case: Case) -> Result:
    """One pass forward and backward."""
    result = pretrain.run(case, pretraining(case))
    if "task_order" in case.outputs:
        result.arrays["task_order"] = np.asarray(list(case.config["out_domains"]))
    return result


def masks(case: Case) -> Result:
    """The sampler on given shares and noises."""
    c, inputs = case.config, case.inputs
    count, tokens = int(c["num_encoded_tokens"]), list(c["tokens"])
    if len(set(tokens)) != 1:
        raise VerifyError(f"{case.folder}: config.tokens {tokens} must be the same number for all modalities")
    if float(c.get("alpha", 1.0)) <= 0:
        raise VerifyError(f"{case.folder}: config.alpha {c['alpha']} must be positive")
    noise = jnp.stack([jnp.asarray(inputs[f"noise_{i}"]) for i in range(len(tokens))], axis=1)
    shares, order = jnp.asarray(inputs["task_weights"]), jnp.asarray(inputs["noise_all"])
    if noise.shape[2] != tokens[0] or shares.shape[1] != len(tokens):
        raise VerifyError(f"{case.folder}: noise and weights are not those of {len(tokens)} modalities of {tokens[0]}")
    mask, counts = mask_from_shares(shares, noise, order, count)
    hidden = mask.hidden(len(tokens))
    arrays = {"ids_keep": mask.visible, "ids_restore": mask.restore, "samples_per_task": counts}
    arrays |= {"kept_per_task": (~hidden).sum(-1).T} | {f"mask_{i}": h.astype(int) for i, h in enumerate(hidden)}
    return Result(arrays)


SYSTEM = System(upstream="EPFL-VILAB/MultiMAE", kinds={"model": run, "masks": masks})


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of the encoder; the modalities are the config's."""
    width = authors.shape(arrays, "global_tokens", 3)
    found = {"model.width": width[2], "method.global_tokens": width[1]} if width else {}
    return found | authors.sizes_show(arrays, {}, {"encoder.": "model.depth"})


def refusal(method: MultiMAE) -> str:
    """What the authors' network cannot be."""
    c: VitConfig = method.model
    square = {"image_size": ((c.image_size[0],) * 2,), "positions": ("sincos_row",)}
    plain = {key: value for key, value in authors.PLAIN.items() if key != "cls_token"}
    return authors.vit_needs(c, plain | square)


FORMATS = (
    authors.checkpoint(
        "multimae",
        "all",
        accepts=lambda arrays: has(arrays, "global_tokens") and any(n.startswith("output_adapters.") for n in arrays),
        shows=shows,
        layout=layout,
        refusal=refusal,
        methods=("multimae",),
    ),
)
