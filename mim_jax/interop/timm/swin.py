"""timm's SwinTransformer and SwinTransformerV2 (swin_*, swinv2_*), as encoders or classifiers.

timm counts the merging of patches to the stage that follows it, ours to the stage before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from mim_jax.errors import DataError
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.rules import dense, norm, under
from mim_jax.interop.source import Source
from mim_jax.interop.swin_case import linear, swin_rules, swin_tables
from mim_jax.interop.system import Layout
from mim_jax.interop.timm import common, modules
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method
from mim_jax.models.swin_config import SwinConfig

FIXED = "computed from the sizes of the model; timm stored it once"
EPSILON = 1e-5
NAMES = {  # version -> width -> name; the sizes stand in model_args too
    "swin": {96: "swin_tiny_patch4_window7_224", 192: "swin_large_patch4_window7_224"},
    "swinv2": {96: "swinv2_tiny_window8_256", 192: "swinv2_large_window12_192"},
}
USUAL = {"swin": "swin_base_patch4_window7_224", "swinv2": "swinv2_base_window8_256"}


def facts(arch: str) -> Callable[[Any], dict[str, Any]]:
    """`Family.facts`."""

    def read(model: Any) -> dict[str, Any]:
        stages, patches = [stage.blocks for stage in model.layers], model.patch_embed
        first = stages[0][0]
        found = dict(
            img_size=patches.img_size,
            patch_size=patches.patch_size,
            in_chans=patches.proj.in_channels,
            embed_dim=patches.proj.out_channels,
            depths=tuple(len(blocks) for blocks in stages),
            num_heads=tuple(blocks[0].attn.num_heads for blocks in stages),
            # A window that is larger than a stage's grid is cut to it, so the largest is the one that was asked for.
            window_size=max(side for blocks in stages for side in blocks[0].window_size),
            mlp_ratio=common.ratio(first.mlp.fc1.out_features, patches.proj.out_channels),
            qkv_bias=(first.attn.qkv.bias if arch == "swin" else first.attn.q_bias) is not None,
            global_pool=model.head.global_pool.pool_type,
        )
        if type(first.mlp.act).__name__ != "GELU":
            raise DataError(f"has the activation {type(first.mlp.act).__name__}, which ours does not have")
        if arch == "swinv2":
            found["pretrained_window_sizes"] = tuple(_square(b[0].attn.pretrained_window_size) for b in stages)
        config = SwinConfig.from_section(section(arch, {**found, "norm_eps": EPSILON}))
        for s, blocks in enumerate(stages):
            for b, block in enumerate(blocks):
                ours = (config.stage_window(s),) * 2, (config.shift(s, b),) * 2
                if (tuple(block.window_size), tuple(block.shift_size)) != ours:
                    raise DataError(
                        f"has windows of {tuple(block.window_size)} moved by {tuple(block.shift_size)} in stage "
                        f"{s + 1}, where ours have {ours[0]} moved by {ours[1]}"
                    )
        return found

    return read


def _square(sides: tuple[int, int]) -> int:
    if sides[0] != sides[1]:
        raise DataError(f"was pretrained with windows of {sides}, and ours are squares")
    return int(sides[0])


def family(arch: str, name: str, mark: str, layers: set[str], arguments: tuple[str, ...]) -> Family:
    return Family(
        name=name,
        models=rf"{arch}_(?!cr_)",
        mark=mark,
        head="head.fc",
        stem="patch_embed.proj",
        layers=frozenset(
            layers
            | {"PatchEmbed", "Conv2d", "WindowAttention", "Linear", "LayerNorm", "Mlp", "GELU", "PatchMerging"}
            | {"ClassifierHead", *common.POOLS}
        ),
        arguments=(
            *("img_size", "patch_size", "in_chans", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio"),
            *("qkv_bias", "global_pool", *arguments),
        ),
        exported=dict.fromkeys((USUAL[arch], *NAMES[arch].values()), EPSILON),
        facts=facts(arch),
        channels="last",
        blocks=lambda model: [
            f"layers.{s}.blocks.{i}" for s, stage in enumerate(model.layers) for i in range(len(stage.blocks))
        ],
    )


FIRST = "layers.0.blocks.0.attn"
FAMILIES = {
    "swin": family(
        "swin",
        "SwinTransformer",
        rf"{FIRST}\.relative_position_bias_table",
        {"SwinTransformerStage", "SwinTransformerBlock"},
        (),
    ),
    "swinv2": family(
        "swinv2",
        "SwinTransformerV2",
        rf"{FIRST}\.logit_scale",
        {"SwinTransformerV2Stage", "SwinTransformerV2Block", "ReLU"},
        ("pretrained_window_sizes",),
    ),
}


def section(arch: str, found: dict[str, Any]) -> dict[str, Any]:
    """The model section."""
    windows = tuple(found.get("pretrained_window_sizes", ()))
    return dict(
        arch=arch,
        image_size=common.pair(found["img_size"]),
        patch_size=common.pair(found["patch_size"]),
        channels=found["in_chans"],
        width=found["embed_dim"],
        depths=tuple(found["depths"]),
        heads=tuple(found["num_heads"]),
        window_size=found["window_size"],
        # 0 stands for the present window.
        pretrained_windows=tuple(w or found["window_size"] for w in windows) if any(windows) else (),
        mlp_ratio=found["mlp_ratio"],
        qkv_bias=found["qkv_bias"],
        positions="none",
        patch_norm=True,
        layer_norm_eps=found["norm_eps"],
    )


def settings(arch: str, classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        if "layers.0.downsample.reduction.weight" in source.state():
            raise DataError(
                f"{source.path} merges patches at the end of each stage ('layers.0.downsample'): it is a file of the "
                "authors, not of timm; use --from original"
            )
        found = modules.facts(source, FAMILIES[arch])
        common.mean_pooling(source, found, classifier)
        method = {"classes": found["num_classes"]} if classifier else {}
        return {"model": section(arch, found), "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def layout(classifier: bool) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout`."""

    def made(method: Method, names: Collection[str]) -> Layout:
        config: SwinConfig = method.model
        rules: tuple[Rule, ...] = tuple(rule for rule in swin_rules() if ".downsample." not in rule.theirs[0])
        for stage in range(1, len(config.depths)):
            theirs, ours = f"layers.{stage}.downsample", f"encoder/stages_{stage - 1}/downsample"
            rules += (*linear(f"{theirs}.reduction", f"{ours}/reduction"), *norm(f"{theirs}.norm", f"{ours}/norm"))
        rules += dense("head.fc", "head") if classifier else ()
        ignored = {} if classifier else {FAMILIES[config.arch].head_arrays(): common.OTHER_CLASSIFIER}
        tables = {name: table for name, table in swin_tables(config, "").items() if name in names}
        sizes = dict(zip("pqc", (*config.patch_size, config.channels), strict=True))
        return Layout(NameMap(under("params", rules), dict.fromkeys(tables, FIXED), ignored), sizes, tables)

    return made


def refusal(arch: str) -> Callable[[Method], str]:
    """`Format.refusal`."""

    def reason(method: Method) -> str:
        c = method.model
        if not isinstance(c, SwinConfig) or c.arch != arch:
            return "the encoder is no Swin transformer" + (" of version 2" if arch == "swinv2" else " of version 1")
        if c.positions != "none" or not c.patch_norm:
            return "it has no positions beside those in its windows, and normalises the patch embedding"
        if c.layer_norm_eps != EPSILON:
            return f"its layer norms have an epsilon of {EPSILON}, not {c.layer_norm_eps}"
        for stage in range(len(c.depths)):
            sides = c.stage_grid(stage)
            windows = tuple(min(side, c.window_size) for side in sides)
            shifts = tuple(0 if side <= c.window_size else c.window_size // 2 for side in sides)
            if set(windows) != {c.stage_window(stage)} or set(shifts) != {c.shift(stage, 1)}:
                return f"on a grid of {sides[0]} x {sides[1]} it cuts and moves windows differently down and across"
        return ""

    return reason


def config(arch: str, classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: SwinConfig = method.model
        arguments = dict(
            num_classes=method.classes if classifier else 0,
            img_size=common.either(c.image_size),
            patch_size=common.either(c.patch_size),
            in_chans=c.channels,
            embed_dim=c.width,
            depths=list(c.depths),
            num_heads=list(c.heads),
            window_size=c.window_size,
            mlp_ratio=c.mlp_ratio,
            qkv_bias=c.qkv_bias,
            global_pool="avg",
        )
        if arch == "swinv2":
            arguments["pretrained_window_sizes"] = list(c.pretrained_windows or (0,) * len(c.depths))
        name = NAMES[arch].get(c.width, USUAL[arch])
        width = c.stage_width(len(c.depths) - 1)
        return common.written_config(FAMILIES[arch], name, arguments, width, fixed=True)

    return write


FORMATS = tuple(
    form
    for arch, family in FAMILIES.items()
    for form in modules.both_parts(
        family,
        settings=partial(settings, arch),
        refusal=refusal(arch),
        layout=layout,
        config=partial(config, arch),
    )
)
