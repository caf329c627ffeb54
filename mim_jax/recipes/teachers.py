"""The section `method.teacher` of a config, and the switches of encoders that teach."""

from __future__ import annotations

from typing import Any

STATISTICS = {  # mean and deviation of pixels in [0, 1]
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def teacher(source: str, model: dict[str, Any], statistics: str = "clip", **changes: Any) -> dict[str, Any]:
    """A teacher whose weights are in the run `source` and whose encoder is `model`; `changes`: further keys."""
    mean, std = STATISTICS[statistics]
    # outputs: of a fixed random map behind it, 0: none; blocks: that teach, -1: all; norm: the final norm too.
    plain = {"outputs": 0, "blocks": -1, "norm": True}
    return {"source": source, "model": model, "mean": mean, "std": std} | plain | changes


def clip(projection: int = 0) -> dict[str, Any]:
    """What CLIP's vision transformer is beside its sizes; projection: to how many values, 0 for none."""
    switches = {"positions": "learned", "layer_norm_eps": 1e-5, "activation": "quick_gelu", "pre_norm": True}
    return switches | {"patch_bias": False, "projection": projection}
