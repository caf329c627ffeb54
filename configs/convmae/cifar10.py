"""ConvMAE on CIFAR-10 at 32 pixels: maps of 32 and 16 positions a side, then a transformer of ViT-Ti's width on 8 x 8.

configs/convmae/cifar10.py:epochs=400,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        epochs=400.0,
        batch_size=512,
        lr=1.5e-4,
        decoder_width=192,
        decoder_depth=4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.on_cifar10(config, args)

    sizes = dict(stem_width=(48, 96), stem_depth=(1, 2), strides=(1, 2, 2), width=192, depth=11, heads=3)
    config.model = variant("B", image_size=(32, 32), **sizes)
    config.method = {
        "name": "convmae",
        "mask_ratio": 0.75,
        "target": "norm_pix",
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
        "decoder_mlp_ratio": 4.0,
    }

    config.evaluation.linear.feature = "pooled"
    return config
