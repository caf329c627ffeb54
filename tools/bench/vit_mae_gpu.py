"""MAE pretraining on one GPU: share of what the device can multiply, against torch, and with the real input pipeline.

    python tools/bench/vit_mae_gpu.py --data 'wds:DIR/*.tar' --out gpu.json
    python tools/bench/vit_mae_gpu.py --models B/16 --batches 128 --rounds 1 --no-torch

In this order: the bf16 rate of an 8192-cube matrix product; the step that `mim-jax train` compiles (bf16 compute, fp32
parameters, synthetic images on the device) over batches, scan and remat; the best of them and torch's compiled ViTMAE
(sdpa attention, bf16 autocast, fused AdamW) in turns; the best one fed by the input pipeline from --data. Every case
runs in a process of its own, so one that does not fit spoils no other. Needs torch and transformers for torch's side.
`--devices cpu --tiny` runs all of it on a CPU with a tiny model, to see that it works.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().parents[2] / "configs/mae/imagenet1k.py"
TINY = {"model.depth": 1, "model.width": 32, "model.heads": 2, "method.decoder_depth": 1, "method.decoder_width": 32}
GOALS = {"L/16": 0.45, "B/16": 0.35, "against torch": 1.3, "pipeline": 0.95}


def ours(case: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A function that starts one step of the program that `mim-jax train` compiles."""
    import jax
    import numpy as np

    from mim_jax import config as configs
    from mim_jax import pretrain
    from mim_jax.training import compile_ahead, flops
    from mim_jax.training.data import TrainData
    from mim_jax.training.feed import Feed
    from mim_jax.training.resolve import versions
    from mim_jax.training.state import run_key

    config = configs.load(
        f"{CONFIG}:variant={case['model']}",
        [f"{key}={value}" for key, value in case["settings"].items()],
    )
    method = pretrain.check_all(config)
    lowered = compile_ahead.lower(config, method, jax.devices()[:1])
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    shapes = compile_ahead.batch_shapes(config, lowered.mesh)
    rng = np.random.default_rng(0)
    fill = {name: rng.integers(0, 255, s.shape).astype(s.dtype) for name, s in shapes.items()}
    batch = {name: jax.device_put(value, shapes[name].sharding) for name, value in fill.items()}
    state, frozen = lowered.program.init(run_key(0, "init"), batch)
    feed = Feed(TrainData(config, Path(tempfile.mkdtemp())).open_at, lowered.mesh, 0) if case["data"] else None
    key = run_key(0, "train")

    def run() -> Any:
        nonlocal state
        state, scalars = compiled(state, frozen, feed.next() if feed else batch, key)
        return scalars["loss"]

    memory = flops.compiled_memory(compiled)
    return run, {"flops": method.flops(), "compile_seconds": seconds, "memory": memory, "versions": versions()}


def torch_side(case: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The same for transformers' ViTMAE, as torch runs it fastest."""
    import torch

    from mim_jax import config as configs
    from mim_jax.interop.torch_side import declare_operators

    declare_operators()
    import transformers

    section = configs.load(f"{CONFIG}:variant={case['model']}", [f"{k}={v}" for k, v in case["settings"].items()])
    model, device = section.model, "cuda" if torch.cuda.is_available() else "cpu"
    settings = transformers.ViTMAEConfig(
        hidden_size=model.width, num_hidden_layers=model.depth, num_attention_heads=model.heads,
        intermediate_size=int(model.width * model.mlp_ratio), image_size=224, patch_size=model.patch_size[0],
        norm_pix_loss=True, mask_ratio=0.75, decoder_hidden_size=section.method.decoder_width,
        decoder_num_hidden_layers=section.method.decoder_depth, decoder_num_attention_heads=16,
        decoder_intermediate_size=4 * section.method.decoder_width, attn_implementation="sdpa",
    )  # fmt: skip
    net = transformers.ViTMAEForPreTraining(settings).train().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=device == "cuda")
    step = torch.compile(net) if device == "cuda" else net
    pixels = torch.randn(section.training.batch_size, 3, 224, 224, device=device)

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = step(pixel_values=pixels).loss
        loss.backward()
        optimizer.step()
        return loss

    return run, {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}


def matmul(case: dict[str, Any]) -> float:
    """FLOP/s of a bf16 product of two square matrices."""
    import jax
    import jax.numpy as jnp

    size = case["size"]
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda x: (x @ a) * size**-0.5)
    x = product(product(a))
    seconds = []
    for _ in range(5):
        x.block_until_ready()
        start = time.perf_counter()
        for _ in range(10):
            x = product(x)
        x.block_until_ready()
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * size**3 / min(seconds)


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """One case in this process: images a second, median over blocks of steps."""
    if case["side"] == "matmul":
        import jax

        return {"flops_per_second": matmul(case), "device": jax.devices()[0].device_kind}
    run, facts = (ours if case["side"] == "mim_jax" else torch_side)(case)
    for _ in range(3):
        float(run())
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(case["steps"]):
            loss = run()
        float(loss)  # waits
        rates.append(case["steps"] * case["batch"] / (time.perf_counter() - start))
    return {"images_per_second": statistics.median(rates), **facts}


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """A case in a process of its own; one that fails says why."""
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    name = " ".join(f"{key}={value}" for key, value in case.items() if key not in ("settings", "steps") and value)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return {**case, "error": error}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    rate = found.get("images_per_second")
    print(f"{name}: {rate:.1f} images/s" if rate else f"{name}: {found}", file=sys.stderr, flush=True)
    return {**case, **found}


def sweep(model: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases of a model; where a batch does not fit, larger ones are not tried with the same settings."""
    rows = []
    for scan, remat in itertools.product(args.scan, args.remat):
        for batch in args.batches:
            settings = {"model.scan": scan == "on", "model.remat": remat, "training.precision": "bf16"}
            settings |= {"training.batch_size": batch, **(TINY if args.tiny else {})}
            case = dict(side="mim_jax", model=model, batch=batch, scan=scan, remat=remat, data="", steps=args.steps)
            rows.append(measured({**case, "settings": settings}))
            if "error" in rows[-1]:
                break
    return rows


def compare(best: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The best case in turns with torch, and with the real pipeline."""
    keys = ("side", "model", "batch", "scan", "remat", "data", "steps", "settings")
    case = {key: best[key] for key in keys}
    found: dict[str, Any] = {}
    if args.torch:
        pairs = [(measured(case), measured({**case, "side": "torch"})) for _ in range(args.rounds)]
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in pairs if "error" not in {**a, **b}]
        found["torch"] = [b for _, b in pairs]
        found["ratio"] = statistics.median(ratios) if ratios else None
    if args.data:
        fed = {**case["settings"], "data.source": args.data, "data.workers": os.cpu_count(), **args.pipeline}
        found["fed"] = measured({**case, "data": args.data, "settings": fed})
        if "error" not in found["fed"]:
            found["fed_share"] = found["fed"]["images_per_second"] / best["images_per_second"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["L/16", "B/16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--scan", nargs="+", choices=("on", "off"), default=["off", "on"])
    parser.add_argument("--remat", nargs="+", default=["none", "dots"])
    parser.add_argument("--steps", type=int, default=10, help="steps of a block; five blocks are measured")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the best case and torch")
    parser.add_argument("--data", default="", help="photographs for the input pipeline (a data.source)")
    parser.add_argument("--pipeline", type=json.loads, default={}, help="further settings of it, as JSON")
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: to the terminal)")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(args.case)))
        return 0

    rate = measured({"side": "matmul", "size": 512 if args.tiny else 8192})
    if "error" in rate:
        return 1
    report: dict[str, Any] = {"benchmark": "vit_mae_gpu", "command": " ".join(["python", *sys.argv]), "matmul": rate}
    report |= {"goals": GOALS, "ratios": {}, "sweep": [], "best": {}}
    for model in args.models:
        rows = sweep(model, args)
        report["sweep"] += rows
        fitting = [row for row in rows if "error" not in row]
        if not fitting:
            continue
        for row in fitting:
            row["share"] = row["images_per_second"] * row["flops"] / rate["flops_per_second"]
        best = max(fitting, key=lambda row: row["images_per_second"])
        found = compare(best, args)
        report["best"][model] = {"case": best, **found}
        report["ratios"][f"{model} of the matrix product"] = round(best["share"], 3)
        for name, key in (("against torch", "ratio"), ("with the pipeline", "fed_share")):
            if found.get(key):
                report["ratios"][f"{model} {name}"] = round(found[key], 3)
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
