"""Classifies CIFAR-10's test images with transformers alone: no line of mim_jax runs here.

python tools/walkthrough/classify.py EXPORT_FOLDER 'data/cifar10/test-*.parquet'
"""

import glob
import io
import sys

import pyarrow.parquet as parquet
import torch
from PIL import Image

# transformers imports torchvision where it is installed; beside a torch for CPUs alone its compiled operators are
# missing. Nothing here calls them, so declaring them is enough.
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        LIBRARY.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: E402


def main(folder: str, pattern: str, batch: int = 500) -> None:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    right = count = 0
    for path in sorted(glob.glob(pattern)):
        table = parquet.read_table(path)
        images, labels = table.column(0).to_pylist(), table.column(1).to_pylist()
        for i in range(0, len(labels), batch):
            pictures = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in images[i : i + batch]]
            with torch.no_grad():
                logits = model(**processor(pictures, return_tensors="pt")).logits
            right += int((logits.argmax(-1) == torch.tensor(labels[i : i + batch])).sum())
            count += len(pictures)
    print(f"transformers: {right} of {count} right, {100 * right / count:.2f} %")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
