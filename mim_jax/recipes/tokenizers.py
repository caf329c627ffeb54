"""What configs of tokenizers, and of the systems that predict their tokens, have in common."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

# Of configs/vqkd/cifar10.py, as its own model and as the tokenizer of BEiT v2.
SMALL_VQKD = {
    "kind": "vqkd",
    "image_size": (32, 32),
    "channels": 3,
    "stride": 4,
    "hidden": 192,
    "blocks": 6,
    "heads": 3,
    "code_width": 32,
    "distance": "cosine",
}


def dalle(source: str) -> dict[str, Any]:
    """The section `method.tokenizer` of DALL-E's tokenizer, with its published weights in `source`."""
    sizes = {"image_size": (112, 112), "stride": 8, "vocabulary": 8192, "hidden": 256}
    return {"kind": "dalle", "source": source} | sizes


def own_tokenizer(source: str, vocabulary: int) -> dict[str, Any]:
    """The section `method.tokenizer` of a run of configs/tokenizer/cifar10.py."""
    sizes = {"image_size": (32, 32), "stride": 4, "vocabulary": vocabulary, "hidden": 64}
    return {"kind": "vq", "source": source} | sizes


def conv_tokenizer(args: Any, image_size: int, stride: int) -> dict[str, Any]:
    """The section `model` of a convolutional tokenizer, from the arguments of its config file."""
    return {
        "kind": args.kind,
        "image_size": (image_size, image_size),
        "channels": 3,
        "stride": stride,
        "vocabulary": args.vocabulary,
        "hidden": args.hidden,
        "blocks": 2,
        "code_width": 32,
        "distance": args.distance,
    }


def reconstruction(args: Any, codebook_decay: float) -> dict[str, Any]:
    """The section `method` of its training."""
    return {
        "name": "tokenizer",
        "reconstruction": "l2",
        "commitment": 0.25,
        "codebook_decay": codebook_decay,
        "split_below": 0.2,
        "temperature": (1.0, 0.0625),
        "temperature_share": 0.9,
        "hard": False,
        "kl_weight": 0.02 if args.kind == "dvae" else 0.0,
        "kl_share": 0.1,
    }


def plain_pixels(config: ConfigDict, image_size: int) -> None:
    """A tokenizer takes pixels in [0, 1], at evaluation too, and is judged by its loss."""
    config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config.data.views.image.size = (image_size, image_size)
    config.training.checkpoint.metric = "val_loss"
    config.optimizer.lr_batch = 0
    config.optimizer.b2 = 0.99
