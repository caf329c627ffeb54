"""MAE training step: mim_jax against transformers' ViTMAEForPreTraining in torch, on this CPU, in one run.

    python tools/bench/vit_mae_cpu.py --model Ti/4 --image-size 32 --batch-size 256 --steps 5
    python tools/bench/vit_mae_cpu.py --model B/16 --image-size 224 --batch-size 8 --steps 3

Both sides take a full step (forward, backward, AdamW) in float32 on the same images with the same architecture. Steps
alternate between the two, so that whatever else the machine does hits both; the medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax import recipes
from mim_jax.methods.mae import MAE
from mim_jax.models.vit_config import variant
from mim_jax.training.optimizer import build
from mim_jax.training.resolve import versions
from mim_jax.training.state import init_state
from mim_jax.training.step import StepSettings, train_step
from mim_jax.training.views import Views


def jax_side(model: dict, images: np.ndarray):
    """A function that takes one step of ours and waits for it."""
    method = MAE.from_config(model, {})
    batch = {"image": jnp.asarray(images)}
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    optimizer = build(recipes.adamw(), method.param_groups(), shapes.params)
    state, frozen = jax.jit(partial(init_state, method, optimizer, ema=False))(jax.random.key(0), batch)
    settings = StepSettings(1000, 100, lambda step: 1e-4, Views((), (0.5,), (0.5,)))
    step = jax.jit(partial(train_step, method=method, optimizer=optimizer, settings=settings), donate_argnums=0)
    key = jax.random.key(1)

    def run() -> float:
        nonlocal state
        state, scalars = step(state, frozen, batch, key)
        return float(scalars["loss"])

    return run, method.flops()


def torch_side(model: dict, images: np.ndarray):
    """The same for transformers' ViTMAE."""
    import torch
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Ti/4")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    model = variant(args.model, (args.image_size, args.image_size))
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, flops = jax_side(model, images)
    theirs, foreign = torch_side(model, images)
    seconds: dict[str, list[float]] = {"mim_jax": [], "transformers": []}
    for number in range(args.steps + 1):
        for name, run in (("mim_jax", ours), ("transformers", theirs)):
            start = time.perf_counter()
            run()
            if number:  # the first step compiles and warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: args.batch_size / statistics.median(times) for name, times in seconds.items()}
    print(json.dumps({
        "model": args.model, "image_size": args.image_size, "batch_size": args.batch_size, "steps": args.steps,
        "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["mim_jax"] / rates["transformers"], 3),
        "gflops_per_second": {name: round(rate * flops / 1e9, 1) for name, rate in rates.items()},
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "versions": {**versions(), **foreign},
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
