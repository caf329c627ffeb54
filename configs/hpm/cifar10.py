"""HPM on CIFAR-10 at 32 pixels, ViT-Ti/4 by default.

configs/hpm/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
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
        target="norm_pix",  # pixel, norm_pix or ema
        decoder_width=192,
        decoder_depth=4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32))
    config.method = {
        "name": "hpm",
        "mask_ratio": 0.75,
        "target": args.target,
        "predictor_loss": "relative",
        "hard_share": 0.5,
        "hard_epochs": args.epochs,
        "ema_start": 0.999,
        "ema_end": 0.9999,
        "ema_epochs": 100.0,
        "evaluate": "student",
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
    }

    recipes.on_cifar10(config, args)
    return config
