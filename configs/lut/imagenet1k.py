"""LUT on ImageNet-1K: every published row as an argument.

    configs/lut/imagenet1k.py                  ViT-B/16, 1600 epochs
    configs/lut/imagenet1k.py:variant=S/16     ViT-S/16 (its recipe is uncertain: the one of B)
    configs/lut/imagenet1k.py:variant=L/16     ViT-L/16 (uncertain too)

The published numbers stand in results/lut.json, each with the argument that reproduces it.
"""

import math

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # S/16, B/16 or L/16
        epochs=1600.0,
        batch_size=4096,
        broad_weight=0.25,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name)
    config.method = {
        "name": "lut",
        "mask_ratio": 0.75,
        "target": "norm_pix",
        "broad_weight": args.broad_weight,
        "reconstruction_weight": 1.0,
        "projector_depth": 2,
        "predictor_depth": 2,
        "head_hidden": 4096,
        "head_norm": "batch",
        "head_activation": "relu",
        "ema_momentum": 0.996,
        "evaluate": "student",
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
    }

    # Both views with crops of their own; the second with colours changed, and exactly one of three effects.
    config.data.views.image.crop = "random_reflect"
    config.data.views.image2 = recipes.view() | {
        "crop": "random_reflect",
        "color_jitter": 0.4,
        "color_jitter_saturation": 0.2,
        "color_jitter_hue": 0.1,
        "color_jitter_probability": 0.8,
        "grayscale": 1 / 3,
        "blur": 1 / 3,
        "solarize": 1 / 3,
        "one_effect": True,
    }

    # With the square root of the batch, not with the batch: 1.5e-4 * sqrt(batch) / 4.
    config.optimizer.lr = 1.5e-4 * math.sqrt(args.batch_size) / 4
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    config.evaluation.finetune.lr = 4e-3
    config.evaluation.finetune.lr_batch = 0  # for batches of 1024: 1e-3 * sqrt(1024) / 8
    config.evaluation.finetune.layer_decay = 0.75
    config.evaluation.finetune.drop_path_rate = 0.1
    config.evaluation.finetune.min_lr = 1e-6
    return config
