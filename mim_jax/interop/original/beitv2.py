"""microsoft/unilm, beit2: names of the arrays of network and tokenizer, checkpoints, and how its cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.original import beit
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, masked_rows, patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Batch, Output, Variables
from mim_jax.methods.beitv2 import BEiTv2
from mim_jax.methods.vqkd import VQKD
from mim_jax.models.tokenizer import encode_images, tokenize
from mim_jax.nn.kmeans import spherical_kmeans

REST = (
    *dense("lm_head", "head"),
    *beit_block("cls_pt_layers.{i}", "aggregation/blocks_{i}"),
    *norm("cls_pt_norm", "aggregation/norm"),
    *dense("cls_pt_lm_head", "aggregation_head"),
)
UNUSED = {
    r"^quantize\.embedding\.(cluster_size|embed_avg|initted)$": "kept by the original, and not used by its update",
}


def layout(method: BEiTv2) -> Layout:
    """The pretrained network with its second head."""
    return beit.layout(method.model, REST)


def pretraining(case: Case) -> Subject:
    """BEiT v2 as a case asks for it; its tokens are given, so the tokenizer stays untouched."""
    c, model = case.config, vit_config(case, **beit_settings(case))
    for key in ("batch", "num_masked", "weight_noise"):
        c.get(key)
    size = (2 * model.grid[0], 2 * model.grid[1])
    tokenizer = dict(kind="vq", vocabulary=c["vocab_size"], stride=2, image_size=size, hidden=4)
    section = dict(early_layers=c["early_layers"], head_layers=c["head_layers"], shared_head=bool(c["shared_lm_head"]))
    section |= dict(tokenizer=tokenizer, num_mask_patches=model.tokens - 1, min_block=1)
    method = BEiTv2.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(np.asarray(arrays["mask"]) > 0).reshape(-1, model.tokens)
        batch = {"image": jnp.asarray(arrays["images"]), "tokens": jnp.asarray(arrays["token_ids"], jnp.int32)}
        return batch, {"mask": Mask(hidden, grid=model.grid), "drop_path": None, "head_drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        t, hidden = output.trace, output.trace["mask"].hidden
        found = {"loss_main": output.terms["tokens"], "features_main": t["latent"][:, 1:]}
        found["logits_main"] = masked_rows(t["pred"], hidden)
        if method.head_layers:
            found |= {"loss_cls": output.terms["cls_tokens"], "features_cls": t["aggregated"][:, 1:]}
            found["logits_cls"] = masked_rows(t["aggregated_pred"], hidden)
        return found

    return Subject(method, layout(method), inputs, outputs)


def run_mim(case: Case) -> Result:
    """Both losses and their gradients; and the bias of the shared table as the attention sees it."""
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    if "rel_pos_bias.relative_position_bias_table" in case.weights:
        table = jnp.asarray(case.weights["rel_pos_bias.relative_position_bias_table"])
        bias = subject.method.bias({"encoder": {"relative_bias": {"table": table}}})  # type: ignore[attr-defined]
        result.arrays["rel_pos_bias"] = bias[0]
    return result


def task_vit(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Encoder or decoder of the tokenizer, with its two layers."""
    sides, task = (f"{theirs}r", f"{ours}/vit"), f"{theirs}_task_layer"
    patches = PATCHES if theirs == "encode" else CELLS
    return (
        *same(f"{sides[0]}.cls_token", f"{sides[1]}/cls_token"),
        *same(f"{sides[0]}.pos_embed", f"{sides[1]}/pos_embed"),
        *dense(f"{sides[0]}.patch_embed.proj", f"{sides[1]}/patch_embed/proj", patches),
        *beit_block(f"{sides[0]}.blocks.{{i}}", f"{sides[1]}/blocks_{{i}}"),
        *norm(f"{sides[0]}.fc_norm", f"{sides[1]}/norm"),
        *dense(f"{task}.0", f"{ours}/task1"),
        *dense(f"{task}.2", f"{ours}/task2"),
    )


CELLS = "d k one two -> (one two k) d"  # a convolution over single cells of the map of codes
CODES = (*same("quantize.embedding.weight", "extra/codebook"), *same("quantize.cluster_size", "extra/usage"))


def tokenizer_layout(method: VQKD) -> Layout:
    """Encoder, decoder, codes and how often they are used; the teacher is not part of it."""
    rules = (*under("params", task_vit("encode", "encoder") + task_vit("decode", "decoder")), *CODES)
    sizes = {**patch_sizes(method.model.vit), "one": 1, "two": 1}
    return Layout(NameMap(rules, ignored=UNUSED, absent=authors.TEACHER), sizes)


def tokenizing(case: Case) -> Subject:
    """VQ-KD as a case asks for it, with the teacher's features as the case gives them."""
    c = case.config
    vit = vit_config(case, positions="learned", qkv_bias="qv")
    if vit.patch_size[0] != vit.patch_size[1] or vit.mlp_ratio != 4 or c.get("init_values"):
        raise VerifyError(f"{case.folder}: the tokenizer has square patches, mlp_ratio 4 and no layer scale")
    for key in ("batch", "weight_noise"):
        c.get(key)
    model = dict(image_size=vit.image_size, channels=vit.channels, stride=vit.patch_size[0], hidden=vit.width)
    model |= dict(blocks=vit.depth, heads=vit.heads, vocabulary=c["n_code"], code_width=c["code_dim"])
    teacher = dataclasses.asdict(dataclasses.replace(vit, width=c["teacher_dim"], heads=1, qkv_bias="full"))
    section = dict(
        teacher=dict(model=teacher, mean=(0.0,) * vit.channels, std=(1.0,) * vit.channels),
        decoder_width=c["decoder_embed_dim"],
        decoder_depth=c["decoder_depth"],
        decoder_heads=c["decoder_num_heads"],
        codebook_decay=c["decay"],
        start="kmeans" if c["kmeans_init"] else "random",
    )
    method = VQKD.from_config(model, section)

    def inputs(arrays: Mapping[str, Any]):
        return {"image": jnp.asarray(arrays["images"]), "teacher": jnp.asarray(arrays["teacher_features"])}, {}

    def outputs(output: Output) -> dict[str, Any]:
        t = output.trace
        grid = rearrange(t["vectors"], "b (h w) c -> b c h w", h=method.model.grid[0])
        named = dict(codes=t["tokens"], rec=t["pred"], quantized=grid)
        return named | dict(loss_rec=output.terms["features"], loss_commit=output.terms["commitment"])

    return Subject(method, tokenizer_layout(method), inputs, outputs)


@dataclasses.dataclass(frozen=True)
class Started(Subject):
    """A subject whose variables are there already."""

    start: Variables = Variables(params={})

    def variables(self, case: Case, batch: Batch) -> Variables:
        return self.start


def run_vqkd(case: Case) -> Result:
    """One training step of the codes, from k-means where the case says so, and the codes of a second look."""
    subject = tokenizing(case)
    method: Any = subject.method
    batch, _ = subject.inputs(case.inputs)
    start = subject.variables(case, batch)
    encoder = start.params["encoder"]
    raw = jax.jit(method.model.modules()[0].apply)({"params": encoder}, 2.0 * batch["image"] - 1.0)[1]
    raw = raw.reshape(len(raw), -1, raw.shape[-1])
    if method.start == "kmeans":
        vectors = encode_images(method.model, encoder, batch["image"])[1].reshape(-1, raw.shape[-1])
        codes = spherical_kmeans(vectors, jnp.asarray(case.inputs["kmeans_init_ids"]))
        start = start.replace(extra={**start.extra, "codebook": codes})
    result = pretrain.run(case, Started(method, subject.layout, subject.inputs, subject.outputs, start))
    _, output = method.forward(start.params, start.extra, start.frozen, batch, {}, None)
    after = method.update(start.extra, start.params, output, None)
    _, again = method.forward(start.params, after, start.frozen, batch, {}, None)
    vectors, old = output.trace["outputs"], start.extra["codebook"]
    distances = jnp.sort(jnp.square(vectors[..., None, :] - old).sum(-1), axis=-1)
    codes_eval = tokenize(method.model, method.tokenizer(start.params, after), batch["image"])
    result.arrays |= dict(pre_quant=raw, codebook_before=old, codebook_after=after["codebook"])
    result.arrays |= dict(usage_after=after["usage"], codes_eval=codes_eval, codebook_after_eval=after["codebook"])
    result.arrays |= dict(loss_commit_eval=again.terms["commitment"])
    result.arrays |= dict(usage_after_eval=method.update(after, start.params, again, None)["usage"])
    result.arrays |= dict(code_margin=(distances[..., 1] - distances[..., 0]).min())
    return result


SYSTEM = System(upstream="microsoft/unilm", kinds={"mim": run_mim, "vqkd": run_vqkd})


def refusal(method: BEiTv2) -> str:
    """What the authors' network cannot be."""
    return authors.vit_needs(method.model, authors.BEIT)


FORMATS = (
    authors.checkpoint(
        "beitv2",
        "all",
        accepts=lambda arrays: has(arrays, "cls_token", "lm_head.weight", "cls_pt_layers.0.norm1.weight"),
        shows=authors.vit_shows,
        layout=layout,
        refusal=refusal,
        methods=("beitv2",),
    ),
)
