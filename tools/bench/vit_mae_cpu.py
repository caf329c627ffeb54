"""MAE training step: mim_jax against transformers' ViTMAEForPreTraining in torch, on this CPU, in one run.

    python tools/bench/vit_mae_cpu.py --model Ti/4 --image-size 32 --batch-size 256 --steps 5
    python tools/bench/vit_mae_cpu.py --model B/16 --image-size 224 --batch-size 8 --steps 5

Both sides take a full step (forward, backward, AdamW) in float32 on the same images with the same architecture, each in
a process of its own, since the threads of one library slow the other down. Steps take turns, so that whatever else the
machine does hits both, and the side that waits is stopped; medians and their ratio are printed. `transformers` is torch
as users run it; `transformers, memory kept` is torch with the setting of the C library's allocator that our training
makes (`mim_jax/training/host_memory.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

SIDES = ("mim_jax", "transformers", "transformers, memory kept")


def jax_side(model: dict, images: Any) -> tuple[Callable[[], float], dict]:
    """A function that takes one step of ours, as `mim-jax train` compiles it, and waits for it."""
    import jax
    import jax.numpy as jnp

    from mim_jax import recipes
    from mim_jax.methods.mae import MAE
    from mim_jax.nn.materialize import CPU_OPTIONS
    from mim_jax.training.host_memory import keep_freed_memory
    from mim_jax.training.optimizer import build
    from mim_jax.training.resolve import versions
    from mim_jax.training.state import init_state
    from mim_jax.training.step import StepSettings, train_step
    from mim_jax.training.views import Views

    keep_freed_memory()
    method = MAE.from_config(model, {})
    batch = {"image": jnp.asarray(images)}
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    optimizer = build(recipes.adamw(), method.param_groups(), shapes.params)
    state, frozen = jax.jit(partial(init_state, method, optimizer, ema=False))(jax.random.key(0), batch)
    settings = StepSettings(1000, 100, lambda step: 1e-4, Views((), (0.5,), (0.5,)))
    step = jax.jit(
        partial(train_step, method=method, optimizer=optimizer, settings=settings),
        donate_argnums=0,
        compiler_options=CPU_OPTIONS,
    )
    key = jax.random.key(1)

    def run() -> float:
        nonlocal state
        state, scalars = step(state, frozen, batch, key)
        return float(scalars["loss"])

    return run, {"flops": method.flops(), **versions()}


def torch_side(model: dict, images: Any) -> tuple[Callable[[], float], dict]:
    """The same for transformers' ViTMAE."""
    import numpy as np
    import torch

    from mim_jax.interop.torch_side import declare_operators

    declare_operators()
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.ViTMAEConfig(
        hidden_size=model["width"],
        num_hidden_layers=model["depth"],
        num_attention_heads=model["heads"],
        intermediate_size=int(model["width"] * model["mlp_ratio"]),
        image_size=model["image_size"][0],
        patch_size=model["patch_size"][0],
        num_channels=model["channels"],
        norm_pix_loss=True,
        mask_ratio=0.75,
    )
    net = transformers.ViTMAEForPreTraining(config).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = net(pixel_values=pixels).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run, {"torch": torch.__version__, "transformers": transformers.__version__}


def serve(side: str, args: argparse.Namespace) -> None:
    """One side: takes a step for every line that comes in, and answers with its seconds."""
    import numpy as np

    from mim_jax.models.vit_config import variant
    from mim_jax.training.host_memory import keep_freed_memory

    shape = (args.batch_size, args.image_size, args.image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if side.endswith("memory kept"):
        keep_freed_memory()
    make = jax_side if side == "mim_jax" else torch_side
    run, facts = make(variant(args.model, (args.image_size, args.image_size)), images)
    run(), run()  # compiles and warms up
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


class Side:
    """A side in its process, stopped while it waits."""

    def __init__(self, name: str):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the side '{name}' ended before its first step; its message stands above")
        self.facts = json.loads(answer)
        self.process.send_signal(signal.SIGSTOP)

    def step(self) -> float:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = float(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Ti/4")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return serve(args.side, args)

    sides = {name: Side(name) for name in SIDES}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for _ in range(args.steps):
            for name, side in sides.items():
                seconds[name].append(side.step())
    finally:
        for side in sides.values():
            side.process.kill()
    rates = {name: args.batch_size / statistics.median(times) for name, times in seconds.items()}
    facts = {name: value for side in sides.values() for name, value in side.facts.items()}
    flops = facts.pop("flops")
    print(json.dumps({
        "benchmark": "vit_mae_cpu", "command": " ".join(["python", *sys.argv]),
        "ratios": {f"mim_jax / {name}": round(rates["mim_jax"] / rates[name], 3) for name in SIDES[1:]},
        "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "seconds": {name: [round(t, 3) for t in times] for name, times in seconds.items()},
        "gflops_per_second": {name: round(rate * flops / 1e9, 1) for name, rate in rates.items()},
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "versions": facts,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
