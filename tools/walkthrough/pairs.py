"""CroCo on pairs of views: pretrain on made-up scenes, then depth from one view by a linear head on the frozen encoder.

    python tools/walkthrough/pairs.py --out runs/pairs                  CroCo v2 (rotary positions)
    python tools/walkthrough/pairs.py --out runs/pairs1 --version 1

Small on purpose (a ViT of width 96 with 4 blocks on 64 pixels): minutes on one CPU core. The untrained encoder and raw
pixels are judged beside the pretrained encoder. Every command is printed before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import scenes

CONFIG = Path(__file__).resolve().parent.parent.parent / "configs" / "croco" / "imagenet1k.py"
MODEL = {"image_size": (64, 64), "patch_size": (8, 8), "width": 96, "depth": 4, "heads": 3}
DECODER = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2}


def step(*words: str) -> None:
    """Runs one command and stops where it fails."""
    print(f"\n$ mim-jax {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "mim_jax", *words]).returncode
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pairs"), help="folder for scenes and run")
    parser.add_argument("--version", default="2", choices=("1", "2"))
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--epochs", default="20")
    args = parser.parse_args()
    data, run = args.out / "scenes", args.out / "run"
    if not data.exists():
        scenes.write(data / "train", args.scenes, 0)
        scenes.write(data / "test", max(args.scenes // 8, 20), 1)
    changes = {f"model.{key}": value for key, value in MODEL.items()}
    changes |= {f"method.{key}": value for key, value in DECODER.items()}
    changes |= {f"data.views.{view}.size": (64, 64) for view in ("image", "image2")}
    changes |= {"training.batch_size": 64, "training.epochs": args.epochs, "training.precision": "fp32"}
    changes |= {"optimizer.lr": 1e-3, "optimizer.lr_batch": 0, "optimizer.warmup_epochs": float(args.epochs) / 20}
    changes |= {f"training.evaluate.{what}_every_epochs": 0 for what in ("knn", "loss", "pictures")}
    given = f"version={args.version},source=scenes:{data}/train/views,eval_source=folder:{data}/test/left"
    settings = [f"--config.{key}={value}".replace(" ", "") for key, value in changes.items()]
    step("train", "--config", f"{CONFIG}:{given}", "--workdir", str(run), *settings)

    depth = {f"{key}source": f"folder:{data}/{part}/left?map={data}/{part}/depth" for key, part in PARTS.items()}
    depth |= {"batch_size": 32, "steps": 300, "warmup_steps": 30, "lr": 1e-2, "bins": 64, "flip": 0.0}
    depth |= {"low": 1.0, "high": 10.5}
    step("eval", str(run), "--depth", *(f"--config.evaluation.depth.{key}={value}" for key, value in depth.items()))


PARTS = {"": "train", "eval_": "test"}


if __name__ == "__main__":
    main()
