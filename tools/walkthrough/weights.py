"""From nothing to another library: pretrain on CIFAR-10, fine-tune, export, classify with transformers alone.

    python tools/walkthrough/weights.py --train 'data/cifar10/train-*.parquet' --test 'data/cifar10/test-*.parquet'

Small on purpose (a ViT of width 96 with 4 blocks, two epochs of a fifth of the images): some minutes on two CPU cores.
Every step is a command, which is printed before it runs. Needs the extra 'interop'.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent.parent / "configs"


def step(words: list[str]) -> None:
    """Runs one command and stops where it fails."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    words = [sys.executable, "-m", "mim_jax", *words[1:]] if words[0] == "mim-jax" else [sys.executable, *words[1:]]
    code = subprocess.run(words).returncode
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="GLOB", help="parquet files of the training images")
    parser.add_argument("--test", required=True, metavar="GLOB", help="and of the test images")
    parser.add_argument("--out", default="runs/walkthrough", metavar="DIR", help="folder for runs and exports")
    parser.add_argument("--epochs", default="2", help="of pretraining, and of fine-tuning (default: 2)")
    parser.add_argument("--fraction", default="0.2", help="share of the training images that is used (default: 0.2)")
    args = parser.parse_args()
    out, epochs = Path(args.out), args.epochs
    data = f"source=parquet:{args.train},eval_source=parquet:{args.test},precision=fp32"
    small = ["--config.model.width=96", "--config.model.depth=4", "--config.model.heads=3"]
    small += ["--config.method.decoder_width=64", "--config.method.decoder_depth=2", "--config.method.decoder_heads=2"]
    small += [f"--config.data.fraction={args.fraction}"]

    step(
        ["mim-jax", "train", "--config", f"{CONFIGS}/mae/cifar10.py:epochs={epochs},batch_size=128,{data}", *small]
        + ["--config.optimizer.lr=1e-3", "--workdir", f"{out}/mae"]
    )
    # By the class token, which is how ViTForImageClassification pools; plain augmentation for so short a run.
    settings = dict(epochs=epochs, pooling="cls", precision="fp32", lr="1e-3", lr_batch=0, batch_size=128)
    settings |= dict(mixup=0, cutmix=0, randaugment="", random_erasing=0, drop_path_rate=0, warmup_epochs=0.2)
    settings |= dict(label_fraction=args.fraction)
    changes = [f"--config.evaluation.finetune.{key}={value}" for key, value in settings.items()]
    step(["mim-jax", "eval", f"{out}/mae", "--finetune", "--no-baselines", *changes])
    result = json.loads((out / "mae" / "eval.json").read_text())[-1]
    step(["mim-jax", "export", result["details"]["pretrained"]["run"], f"{out}/transformers", "--to", "hf"])
    step(["python", str(HERE / "classify.py"), f"{out}/transformers", args.test])
    print(f"mim_jax:      {100 * result['metrics']['top1']:.2f} % of {result['counts']['eval']}")


if __name__ == "__main__":
    main()
