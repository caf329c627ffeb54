"""LUT on CIFAR-10 at 32 pixels, ViT-Ti/4 by default.

configs/lut/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        epochs=400.0,
        batch_size=512,
        lr=1.5e-4,
        head_hidden=512,
        decoder_width=192,
        decoder_depth=4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32))
    config.method = {
        "name": "lut",
        "mask_ratio": 0.75,
        "target": "norm_pix",
        "broad_weight": 0.25,
        "reconstruction_weight": 1.0,
        "projector_depth": 2,
        "predictor_depth": 2,
        "head_hidden": args.head_hidden,
        "head_norm": "batch",
        "head_activation": "relu",
        "ema_momentum": 0.996,
        "evaluate": "student",
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
    }

    recipes.on_cifar10(config, args)
    config.data.views.image2 = recipes.view((32, 32)) | {
        "color_jitter": 0.4,
        "color_jitter_saturation": 0.2,
        "color_jitter_hue": 0.1,
        "color_jitter_probability": 0.8,
        "grayscale": 0.5,  # of two effects: a blur of 32 pixels leaves little
        "solarize": 0.5,
        "one_effect": True,
    }
    return config
