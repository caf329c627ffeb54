"""Rules for the layers that everybody has, in PyTorch's layout: linear out x in, convolution out x in x h x w."""

from __future__ import annotations

from mim_jax.interop.name_map import Rule

LINEAR = "o i -> i o"
PATCHES = "d c p q -> (p q c) d"  # a convolution over whole patches is a linear map of (row, column, channel)


def same(theirs: str, ours: str) -> tuple[Rule, ...]:
    """An array that is laid out alike on both sides."""
    return (Rule((theirs,), (ours,)),)


def dense(theirs: str, ours: str, pattern: str = LINEAR) -> tuple[Rule, ...]:
    """Weight and bias of a linear layer."""
    return Rule((f"{theirs}.weight",), (f"{ours}/kernel",), pattern), *same(f"{theirs}.bias", f"{ours}/bias")


def fused(theirs: tuple[str, ...], ours: str) -> tuple[Rule, ...]:
    """Several linear layers of theirs (query, key, value) that are one of ours, side by side."""
    weights, biases = tuple(f"{name}.weight" for name in theirs), tuple(f"{name}.bias" for name in theirs)
    return Rule(weights, (f"{ours}/kernel",), LINEAR), Rule(biases, (f"{ours}/bias",))


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Scale and shift of a normalisation layer."""
    return same(f"{theirs}.weight", f"{ours}/scale") + same(f"{theirs}.bias", f"{ours}/bias")


def timm_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A pre-norm transformer block as timm names it."""
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *dense(f"{theirs}.attn.qkv", f"{ours}/attn/qkv"),
        *dense(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


def timm_vit(theirs: str) -> tuple[Rule, ...]:
    """A vision transformer with learned positions as timm names it, `theirs` being what its names start with."""
    return (
        *same(f"{theirs}cls_token", "encoder/cls_token"),
        *same(f"{theirs}pos_embed", "encoder/pos_embed"),
        *dense(f"{theirs}patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
        *timm_block(f"{theirs}blocks.{{i}}", "encoder/blocks_{i}"),
        *norm(f"{theirs}norm", "encoder/norm"),
    )


def mmpretrain_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The same block as mmpretrain names it."""
    return (
        *norm(f"{theirs}.ln1", f"{ours}/norm1"),
        *dense(f"{theirs}.attn.qkv", f"{ours}/attn/qkv"),
        *dense(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        *norm(f"{theirs}.ln2", f"{ours}/norm2"),
        *dense(f"{theirs}.ffn.layers.0.0", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.ffn.layers.1", f"{ours}/mlp/fc2"),
    )


def beit_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A block of BEiT's family: no bias for k, layer scale, a relative table where there is one."""
    return (
        *timm_block(theirs, ours),
        *same(f"{theirs}.attn.q_bias", f"{ours}/attn/q_bias"),
        *same(f"{theirs}.attn.v_bias", f"{ours}/attn/v_bias"),
        *same(f"{theirs}.attn.relative_position_bias_table", f"{ours}/attn/relative_bias/table"),
        *same(f"{theirs}.gamma_1", f"{ours}/gamma_1"),
        *same(f"{theirs}.gamma_2", f"{ours}/gamma_2"),
    )


def eva_block(
    theirs: str,
    ours: str,
    separate: bool,
    gates: tuple[str, ...] = ("mlp.w1", "mlp.w2"),
    out: str = "mlp.w3",
    norms: tuple[str, str] = ("attn.inner_attn_ln", "mlp.ffn_ln"),
    biases: tuple[str, str] = ("attn.q_bias", "attn.v_bias"),
) -> tuple[Rule, ...]:
    """A block of EVA's family, under the authors' names unless others are given.

    separate: whether queries, keys and values are linear layers of their own. gates: of the perceptron's first layer,
    gate before value where they are two. norms: inside attention and inside the perceptron, where there are any.
    """
    layers = (
        tuple(f"{theirs}.attn.{name}_proj.weight" for name in "qkv") if separate else (f"{theirs}.attn.qkv.weight",)
    )
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        Rule(layers, (f"{ours}/attn/qkv/kernel",), LINEAR),
        *same(f"{theirs}.{biases[0]}", f"{ours}/attn/q_bias"),
        *same(f"{theirs}.{biases[1]}", f"{ours}/attn/v_bias"),
        *norm(f"{theirs}.{norms[0]}", f"{ours}/attn/norm"),
        *dense(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        *same(f"{theirs}.gamma_1", f"{ours}/gamma_1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *fused(tuple(f"{theirs}.{name}" for name in gates), f"{ours}/mlp/fc1"),
        *norm(f"{theirs}.{norms[1]}", f"{ours}/mlp/norm"),
        *dense(f"{theirs}.{out}", f"{ours}/mlp/fc2"),
        *same(f"{theirs}.gamma_2", f"{ours}/gamma_2"),
    )


def under(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules for the same model deeper in our tree."""
    return tuple(Rule(r.theirs, tuple(f"{prefix}/{path}" for path in r.ours), r.pattern, r.axis) for r in rules)
