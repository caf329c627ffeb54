"""What a step exchanges between chips and keeps on each, mesh by mesh: every system compiled for many chips at once.

    python tools/bench/scaling.py --topology v5e:16x16 --mesh data=256 --mesh fsdp=256 --out results/bench/scaling.json
    python tools/bench/scaling.py mae --full --topology v5e:4x4 --mesh data=16 --mesh fsdp=16 --mesh data=4,fsdp=4
    python tools/bench/scaling.py mae --topology cpu:8 --mesh data=8 --mesh fsdp=8

The TPU compiler is libtpu (`pip install 'mim_jax[tpu]'`) and needs no TPU; `cpu:8` simulates eight devices. Systems are
those of the registry, at ViT-B's width with two blocks, or as published with --full: what is exchanged follows the
parameters, and a compile takes seconds instead of minutes. --out is written after each compile, and a program that it
holds already is not compiled again.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: it shall not look for TPUs
os.environ["XLA_FLAGS"] = " ".join(  # cpu:N plays so many devices
    [f"--xla_force_host_platform_device_count={word[4:]}" for word in sys.argv if re.fullmatch(r"cpu:\d+", word)]
    + [os.environ.get("XLA_FLAGS", "")]
)

import jax
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax import pretrain
from mim_jax.errors import ConfigError, MimError
from mim_jax.methods.registry import METHODS
from mim_jax.replacing import replacing
from mim_jax.training import compile_ahead, hlo
from mim_jax.training.resolve import versions
from mim_jax.training.sharding import AXES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# (argument of the ImageNet config, overrides) at ViT-B's width with few blocks; what has no blocks is as published.
TEACHER = ("method.teacher.model.depth=2",)
MASKED = ("model.depth=2", "method.decoder_depth=1")
SHALLOW: dict[str, tuple[str, tuple[str, ...]]] = {
    "attmask": ("", ("model.depth=2",)),
    "beit": ("variant=B/16", ("model.depth=2",)),
    "beitv2": ("", ("model.depth=2", "method.early_layers=1")),
    "cae": ("variant=B/16", ("model.depth=2", "method.regressor_depth=1", "method.decoder_depth=1")),
    "cae_v2": ("variant=B/16", ("model.depth=2", "method.regressor_depth=1", *TEACHER)),
    "colormae": ("", MASKED),
    "convmae": ("", MASKED),
    "croco": ("", MASKED),
    "dbot": ("", (*MASKED, *TEACHER)),
    "dbot_beit": ("", ("model.depth=2", *TEACHER)),
    "dmae": ("", (*MASKED, *TEACHER, "method.blocks=(1,)", "method.teacher_blocks=(1,)")),
    "dmjd": ("", MASKED),
    "eva02": ("", ("model.depth=2", *TEACHER)),
    "finetune": ("variant=B/16", ("model.depth=2",)),
    "hpm": ("", MASKED),
    "ibot": ("variant=B/16", ("model.depth=2",)),
    "ijepa": ("variant=B/16", ("model.depth=2", "method.predictor_depth=1")),
    "localmim": ("", ("model.depth=2", "method.taps=(0,0,1,1)")),
    "lut": ("", MASKED),
    "mae": ("variant=B/16,decoder_depth=1", ("model.depth=2",)),
    "maskalign": ("", ("model.depth=2", *TEACHER, "method.layer_weights=top2")),
    "maskfeat": ("variant=B/16", ("model.depth=2",)),
    "mff": ("", (*MASKED, "method.taps=(0,1)")),
    "msn": ("", ("model.depth=2",)),
    "multimae": ("", ("model.depth=2",)),
    "simmim": ("variant=vit-B", ("model.depth=2",)),
    "spark": ("", ("model.depth=(1,1,1,1)",)),
    "tokenizer": ("", ()),
    "vqkd": ("", ("model.blocks=2", "method.decoder_depth=1", *TEACHER)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--topology", default="v5e:16x16", help="v5e:16x16, v5p:4x4x8, ..., or cpu:N")
    parser.add_argument("--mesh", action="append", default=[], metavar="AXIS=N,...", help="such as data=16,fsdp=16")
    parser.add_argument("--per-chip", type=int, default=8, help="images per chip (default: 8)")
    parser.add_argument("--full", action="store_true", help="all blocks of the published model")
    parser.add_argument("--argument", default="", help="with --full: argument of the configs, such as variant=L/16")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of every config")
    parser.add_argument("--out", type=Path, help="JSON file; what it holds already is kept")
    parser.add_argument("--json", action="store_true", help="print what --out would hold")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the rows of such a file as Markdown, and end")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())["rows"]))
        return 0
    kept = json.loads(args.out.read_text())["rows"] if args.out and args.out.exists() else []
    rows = {(row["system"], row["topology"], row["mesh"], row["config"]): row for row in kept}
    try:
        chips = devices(args.topology)
        for name in args.systems or METHODS:
            for mesh in args.mesh or [f"data={len(chips)}"]:
                spec, overrides = wanted(name, args)
                key = (name, args.topology, mesh, " ".join([spec, *overrides]))
                if key not in rows:
                    rows[key] = {**dict(zip(("system", "topology", "mesh", "config"), key, strict=True)),
                                 **one(spec, overrides, mesh, chips, args.per_chip)}  # fmt: skip
                    write(args.out, list(rows.values()))
                print(line(rows[key]), file=sys.stderr if args.json else sys.stdout, flush=True)
    except MimError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result(list(rows.values())), indent=1))
    return 0


def devices(topology: str) -> list[Any]:
    """The devices of a topology, real or simulated."""
    if not topology.startswith("cpu:"):
        return list(compile_ahead.tpu_topology(topology).devices)
    if len(jax.devices()) != int(topology[4:]):
        raise ConfigError(f"topology '{topology}': jax simulates {len(jax.devices())} devices; unset XLA_FLAGS")
    return jax.devices()


def wanted(name: str, args: argparse.Namespace) -> tuple[str, list[str]]:
    """(config file with its argument, overrides) of a system."""
    if name not in METHODS:
        raise ConfigError(f"'{name}' is not a system; they are {', '.join(METHODS)}")
    argument, shallow = (args.argument, ()) if args.full else SHALLOW.get(name, ("", ()))
    precise = ["training.precision=fp32"] if args.topology.startswith("cpu:") else []
    return f"configs/{name}/imagenet1k.py" + (f":{argument}" if argument else ""), [*shallow, *precise, *args.set]


def mesh_overrides(mesh: str) -> list[str]:
    """Overrides for a mesh given as axis=size,...; axes that are not named are 1."""
    given = dict(part.partition("=")[::2] for part in mesh.split(","))
    for axis, size in given.items():
        if axis not in AXES or not size.isdigit():
            raise ConfigError(f"mesh '{mesh}': give sizes of {', '.join(AXES)}, such as data=16,fsdp=16")
    return [f"mesh.{axis}={given.get(axis, 1)}" for axis in AXES]


def one(spec: str, overrides: list[str], mesh: str, chips: list[Any], per_chip: int) -> dict[str, Any]:
    """Compiles one system on one mesh; a step that does not fit is a row too."""
    file, _, argument = spec.partition(":")
    path = str(CONFIGS.parent / file) + (f":{argument}" if argument else "")
    sizes = [*mesh_overrides(mesh), f"training.batch_size={per_chip * len(chips)}"]
    config: ConfigDict = configs.load(path, [*overrides, *sizes])
    method = pretrain.check_all(config)
    start = time.perf_counter()
    lowered = compile_ahead.lower(config, method, chips)
    row = held(lowered.program) | {"images_per_chip": per_chip, "chips": len(chips)}
    try:
        compiled = lowered.compile()
    except compile_ahead.TooLarge as error:
        return row | {"error": str(error)}
    found = compile_ahead.report(config, method, lowered, compiled)
    return row | {
        "memory": found.memory,
        "collectives": found.collectives,
        "exchange": exchanges(compiled, len(chips)) if found.readable else [],
        "readable": found.readable,
        "model_flops": found.model_flops,
        "compile_seconds": round(time.perf_counter() - start, 1),
    }


def held(program: Any) -> dict[str, int]:
    """Bytes of state and frozen networks: whole, and on one chip as the shardings say; and of parameters."""
    leaves = jax.tree.leaves((program.state, program.frozen))
    sizes = [(leaf, leaf.dtype.itemsize if hasattr(leaf.dtype, "itemsize") else 4) for leaf in leaves]
    return {
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.params)),
        "state_bytes": sum(math.prod(leaf.shape) * width for leaf, width in sizes),
        "state_bytes_per_chip": sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * w for leaf, w in sizes),
    }


def exchanges(compiled: Any, chips: int) -> list[dict[str, Any]]:
    """Collectives of a compiled step, alike ones together: kind, dtype, chips in a group, whether it runs beside other
    work, how many arrays, bytes, and the largest array's shape."""
    found: dict[tuple, list[hlo.Buffer]] = collections.defaultdict(list)
    for computation in hlo.Program(compiled.as_text()).computations.values():
        for instruction in computation.values():
            kind = instruction.op.removesuffix("-start")
            if kind not in hlo.COLLECTIVES:
                continue
            beside, group = instruction.op.endswith("-start"), group_size(instruction.rest, chips)
            outputs = instruction.outputs
            # An asynchronous one returns (operand, result, ...): the larger of the two is what it is about.
            if beside and len(outputs) > 1:
                outputs = (max(outputs, key=lambda buffer: buffer.logical),)
            for buffer in outputs:
                found[kind, buffer.dtype, group, beside].append(buffer)
    rows = [
        {
            "kind": kind,
            "dtype": dtype,
            "group": group,
            "asynchronous": beside,
            "arrays": len(buffers),
            "bytes": int(sum(buffer.logical for buffer in buffers)),
            "largest": list(max(buffers, key=lambda buffer: buffer.logical).dims),
        }
        for (kind, dtype, group, beside), buffers in found.items()
    ]
    return sorted(rows, key=lambda row: -row["bytes"])


def group_size(rest: str, chips: int) -> int:
    """Chips in a group of a collective: [16,16]<=[256] and {{0,1},{2,3}} are two ways to write groups; {} is all."""
    short, listed = re.search(r"replica_groups=\[\d+,(\d+)\]", rest), re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return int(short[1]) if short else len(listed[1].split(",")) if listed else chips


def line(row: dict[str, Any]) -> str:
    head = f"{row['system']:<10} {row['topology']:<10} {row['mesh']:<16} {row['parameters'] / 1e6:7.1f} M"
    held = f"state {row['state_bytes'] / 1e6:8.1f} MB, a chip {row['state_bytes_per_chip'] / 1e6:8.1f}"
    if "error" in row:
        return f"{head}  {held}  {row['error']}"
    memory = row["memory"]
    moved = ", ".join(f"{kind} {n}x {size / 1e6:.1f} MB" for kind, (n, size) in row["collectives"].items())
    return (
        f"{head}  {held}  arguments {memory['arguments'] / 1e6:8.1f}, total {memory['total'] / 1e6:8.1f}  "
        f"{moved or ('none' if row['readable'] else 'unknown')}  ({row['compile_seconds']} s)"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each program."""
    head = "| system | topology | mesh | parameters | state | state a chip | memory a chip | exchanged a step |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in rows:
        kinds: collections.Counter = collections.Counter()
        for one in row.get("exchange", []):
            kinds[f"{one['kind']} {one['dtype']}"] += one["bytes"]
        moved = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in kinds.most_common() if size > 5e4)
        total = "too large" if "error" in row else f"{row['memory']['total'] / 1e6:.0f}"
        state = f"{row['state_bytes'] / 1e6:.0f} | {row['state_bytes_per_chip'] / 1e6:.1f} | {total}"
        known = moved or ("none" if row.get("readable", True) else "unknown")
        names = f"{row['system']} | {row['topology']} | {row['mesh']} | {row['parameters'] / 1e6:.1f} M"
        lines.append(f"| {names} | {state} | {known} |")
    return "\n".join(lines)


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a file holds. ratios: how many times the state is larger than all that a chip needs; more is better."""
    words, given = iter(sys.argv), ["python"]
    for word in words:
        if word == "--out":
            next(words)
        elif word != "--json":
            given.append(word)
    ratios = {
        f"{row['system']} {row['topology']} {row['mesh']}": round(row["state_bytes"] / row["memory"]["total"], 4)
        for row in rows
        if "memory" in row
    }
    command = " ".join([*given, "--json"])
    return {"benchmark": "scaling", "command": command, "ratios": ratios, "versions": versions(), "rows": rows}


def write(out: Path | None, rows: list[dict[str, Any]]) -> None:
    """Writes the file whole or not at all."""
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(result(rows), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
