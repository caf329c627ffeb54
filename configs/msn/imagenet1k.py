"""MSN on ImageNet-1K: ViT-S/16 as released, and the larger models of the paper by argument.

    configs/msn/imagenet1k.py                  ViT-S/16, 800 epochs
    configs/msn/imagenet1k.py:variant=B/16     ViT-B/16
    configs/msn/imagenet1k.py:variant=L/7      ViT-L/7

The published numbers stand in results/msn.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

# (share of patches dropped, epochs). Only S/16 is released; of the others both are uncertain.
RUNS = {
    "S/16": (0.15, 800.0),
    "B/16": (0.3, 600.0),
    "B/8": (0.7, 300.0),
    "B/4": (0.7, 300.0),
    "L/7": (0.7, 200.0),
}
COLOURS = {
    "color_jitter": 0.4,  # brightness, contrast and saturation: strength 0.5 of the released config
    "color_jitter_hue": 0.1,
    "color_jitter_probability": 0.8,
    "grayscale": 0.2,
    "blur": 0.5,
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="S/16",  # S/16, B/16, B/8, B/4 or L/7
        epochs=0.0,  # 0: as published
        patch_drop=-1.0,  # -1: as published
        sinkhorn=3,  # iterations; 0: without, as the paper's method section has it
        local_crops=10,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    if args.variant not in RUNS:
        raise ConfigError(f"argument variant={args.variant} is not one of {', '.join(RUNS)}")
    drop, epochs = RUNS[args.variant]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant, positions="learned", init="msn")
    config.method = {
        "name": "msn",
        "patch_drop": drop if args.patch_drop < 0 else args.patch_drop,
        "shared_drop": True,
        "whole_anchors": 1,
        "local_crops": args.local_crops,
        "local_size": (98, 98) if args.variant == "L/7" else (96, 96),  # uncertain: 96 is no multiple of 7
        "head_hidden": 2048,
        "head_outputs": 256,
        "head_norm": "batch",
        "prototypes": 1024,
        "assignment": {
            "temperature": 0.1,
            "sharpening": 0.25,
            "sharpening_end": 0.25,
            "sinkhorn": args.sinkhorn,
            "memax_weight": 1.0,
            "entropy_weight": 0.0,
            "label_smoothing": 0.0,
        },
        "ema_momentum": 0.996,
    }

    whole = recipes.view() | COLOURS | {"scale": (0.3, 1.0), "interpolation": "bilinear"}
    config.data.views.image = whole
    config.data.views.image2 = whole
    if args.local_crops:
        small = {"size": config.method.local_size, "scale": (0.05, 0.3), "count": args.local_crops}
        config.data.views.local = whole | small

    config.training.epochs = args.epochs or epochs
    config.training.batch_size = 1024
    config.training.precision = "fp32"
    config.optimizer.lr = 1e-3  # the peak itself, not per 256 images
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_lr = 2e-4
    config.optimizer.warmup_epochs = min(15.0, config.training.epochs)
    config.optimizer.min_lr = 1e-6
    config.optimizer.schedule_stretch = 1.25
    config.optimizer.schedule_offset = 1
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.04
    config.optimizer.weight_decay_end = 0.4
    config.optimizer.clip_norm = 3.0  # of all parameters; in the original the prototypes are left out

    # The original probes the class token before the final norm, with a norm of its own; here a probe is MAE's.
    config.evaluation.knn.feature = "cls"
    config.evaluation.linear.feature = "cls"
    config.evaluation.finetune.update({"pooling": "cls"})
    return config
