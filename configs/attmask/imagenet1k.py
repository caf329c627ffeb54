"""AttMask on ImageNet-1K: every published row as an argument, ViT-S/16.

    configs/attmask/imagenet1k.py                        High, 100 epochs
    configs/attmask/imagenet1k.py:masking=hint           Hint, 100 epochs
    configs/attmask/imagenet1k.py:epochs=300             High, 300 epochs
    configs/attmask/imagenet1k.py:part=20,source=...     20 % of the images (the first 260 of each class), 100 epochs

The published numbers stand in results/attmask.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant
from mim_jax.recipes import self_distillation as family

# Images of a step, of one device (which share their masks' ratio), and the crops, by length of the run.
SHORT = {"batch_size": 240, "device": 60, "whole": (0.25, 1.0), "small": (0.05, 0.25)}
LONG = {"batch_size": 800, "device": 100, "whole": (0.32, 1.0), "small": (0.05, 0.32)}
PARTS = {100: {"local_crops": 10, "ema_momentum": 0.996}, 20: {"local_crops": 6, "ema_momentum": 0.99}}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="S/16",
        masking="high",  # high | hint | low
        epochs=100.0,  # 300: with the larger batch and crops of the published long run
        part=100,  # percent of the images: 100 | 20; 20 needs a source that holds them
        local_crops=-1,  # -1: as published
        source="",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    if args.part not in PARTS:
        raise ConfigError(f"argument part={args.part} is not one of 100, 20")
    if args.part == 20 and not args.source:
        raise ConfigError(
            "argument part=20 is the published run on the first 260 images of each class; give their source, such as "
            "source=folder:imagenet_260"
        )
    published, part = LONG if args.epochs >= 300 else SHORT, PARTS[args.part]
    local_crops = part["local_crops"] if args.local_crops < 0 else args.local_crops
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant, positions="learned", position_offset=0.1, init="ibot", drop_path_rate=0.1)
    config.method = {
        "name": "attmask",
        "masking": args.masking,
        "mask_ratio": 0.3,
        "mask_ratio_spread": 0.2,
        "masked_share": 0.5,
        "hint_share": 0.1,
        "mask_group": published["device"],
        "mask_start_epoch": 0,
        "local_crops": local_crops,
        "local_size": (96, 96),
        "head": family.projection_head(),
        "distillation": family.distillation(),
        "ema_momentum": part["ema_momentum"],
    }

    config.data.source = args.source or "tfds:imagenet2012:train"
    whole = recipes.view() | family.COLOURS | {"scale": published["whole"], "blur": 1.0}
    small = recipes.view((96, 96)) | family.COLOURS | {"scale": published["small"], "blur": 0.5}
    family.crops(config, whole, small, local_crops)

    config.training.batch_size = published["batch_size"]
    family.optimizer(config, lr=5e-4)

    config.evaluation.knn.k = (10, 20, 100, 200)
    config.evaluation.knn.feature = "cls"
    # The original probes the class tokens of the last four blocks with SGD; here a probe is MAE's, on the last block.
    config.evaluation.linear.epochs = 100.0
    config.evaluation.linear.feature = "cls"
    return config
