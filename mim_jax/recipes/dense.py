"""Sections and published recipes of the dense evaluations: semantic segmentation and depth.

A recipe names values of its section; a key that stands at its default takes the recipe's value, any other stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def segmentation() -> dict:
    """Semantic segmentation; the defaults are DINOv2's linear protocol (frozen encoder, one linear layer)."""
    return {
        "recipe": "",  # '' or a name of SEGMENTATION_RECIPES
        "source": "",  # pairs, such as folder:DIR/images?map=DIR/annotations
        "eval_source": "",  # pairs to test on; '' holds out a fixed tenth of `source`
        "classes": 0,
        "ignore": 255,  # the label that counts for nothing
        "offset": 0,  # subtracted from all labels; what falls below 0 counts for nothing (ADE20K: 1)
        "head": "linear",  # linear | upernet
        "encoder": "frozen",  # frozen | finetune
        "blocks": (),  # numbers from 1 on, or from the end: (-4, -3, -2, -1); (): the last, or four spread (upernet)
        "channels": 0,  # of UPerNet; 0: the encoder's width
        "dropout": 0.1,  # upernet
        "auxiliary": 0.4,  # weight of the auxiliary head's loss; upernet
        "pixel_patch": 0,  # baseline 'pixels': side of its patches; 0: 16, or an eighth of the crop if that is less
        **_views(),
        "photometric": True,  # colour distortion
        "cat_max_ratio": 0.75,  # a crop is drawn again where one class fills more of it
        "inference": "slide",  # slide (windows, predictions averaged) | whole (the image resized to the crop)
        # Multi-scale test: class probabilities averaged over sizes of the image (BEiT: 0.5, 0.75, 1.0, 1.25, 1.5, 1.75,
        # never smaller than the crop) and, with test_flip, over each one mirrored too.
        "test_scales": (1.0,),
        "test_flip": False,
        **_training(),
        "steps": 40000,
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "layer_decay": 1.0,
        "drop_path_rate": 0.0,
    }


def depth() -> dict:
    """Depth: the linear head of DINOv2 (256 uniform bins) on a frozen encoder; the schedule is a choice of ours."""
    return {
        "source": "",  # pairs, such as folder:DIR/images?map=DIR/depth
        "eval_source": "",
        "unit": 0.001,  # metres per unit of whole numbers: PNG in millimetres; .npy floats are metres
        "low": 0.001,  # metres: what is not above it counts for nothing
        "high": 10.0,  # metres: what is above it counts for nothing (NYUd 10, KITTI 80)
        "bins": 256,
        "upsample": 4,  # of the head's map, before the expectation
        "blocks": (),  # as in segmentation; (): the last
        "cls_token": True,  # the class token beside every patch token, where there is one
        "scaling": "none",  # none | median (the prediction times median(truth) / median(prediction), per image)
        "pixel_patch": 0,
        **_views(),
        "scale": (1.0, 1.0),  # resizing in training would change how large things look at a distance
        "inference": "slide",
        **_training(),
        "steps": 38400,
        "lr": 1e-4,
        "weight_decay": 0.01,
    }


def _views() -> dict:
    return {
        "crop": (0, 0),  # (height, width) that the encoder sees; 0: as in the run
        "stride": (0, 0),  # of sliding windows; 0: two thirds of the crop
        "short": 0,  # pixels of the resized image's shorter side; 0: the crop's shorter
        "long": 2048,  # at most, of the longer
        "scale": (0.5, 2.0),  # random factor of the size in training
        "flip": 0.5,
    }


def _training() -> dict:
    return {
        "batch_size": 16,
        "warmup_steps": 1500,  # linear, then a straight line down to `min_lr` at the end
        "min_lr": 0.0,
        "clip_norm": 0.0,
        "window_batch": 16,  # windows a forward pass at the test
        # Passes over the training pairs between two checkpoints, of which there are at most 200; 0: none.
        "checkpoint_every": 1.0,
    }


_ADE20K = {"classes": 150, "offset": 1, "crop": (512, 512), "stride": (341, 341), "short": 512}
_UPERNET = {"head": "upernet", "encoder": "finetune", "steps": 160000, "weight_decay": 0.05, "drop_path_rate": 0.1}
SEGMENTATION_RECIPES: dict[str, dict[str, Any]] = {
    # Oquab et al. 2023, section 7.4 (linear; blocks (-4, -3, -2, -1) is their multi-layer variant)
    "ade20k-linear": _ADE20K,
    "voc-linear": {"classes": 21, "crop": (512, 512), "stride": (341, 341), "short": 512},
    # BEiT's released config for self-supervised ViT-B; MAE as mmsegmentation reproduces it. Large models: blocks
    # (8, 12, 16, 24) come by themselves; set drop_path_rate 0.2.
    "ade20k-upernet-beit": _ADE20K | _UPERNET | {"lr": 7e-4, "layer_decay": 0.65},
    "ade20k-upernet-mae": _ADE20K | _UPERNET | {"lr": 1e-4, "layer_decay": 0.65},
    # The same head on a frozen encoder.
    "ade20k-upernet-frozen": _ADE20K | _UPERNET | {"encoder": "frozen", "drop_path_rate": 0.0, "lr": 1e-4},
}


def fill(section: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A section of `segmentation` in which every key that stands at its default has the recipe's value."""
    default = segmentation()
    standing = [key for key in recipe if _plain(section[key]) == _plain(default[key])]
    return dict(section) | {key: recipe[key] for key in standing}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
