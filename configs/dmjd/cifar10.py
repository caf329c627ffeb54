"""DMJD on CIFAR-10 at 32 pixels: ConvMAE's small encoder of configs/convmae/cifar10.py; one HOG cell per patch.

configs/dmjd/cifar10.py:epochs=400,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        epochs=400.0,
        batch_size=256,
        lr=1e-3,
        decoder_width=192,
        decoder_depth=4,
        visible_order="raster",
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.on_cifar10(config, args)

    sizes = dict(stem_width=(48, 96), stem_depth=(1, 2), strides=(1, 2, 2), width=192, depth=11, heads=3)
    config.model = variant("B", image_size=(32, 32), **sizes)
    config.method = {
        "name": "dmjd",
        "mask_ratio": 0.6,
        "masking": "block",
        "prediction_ratio": 1.0,
        "target": "hog",
        "hog_cell": 4,
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
        "decoder_mlp_ratio": 4.0,
        "visible_weight": 1.0,
        "visible_order": args.visible_order,
    }

    config.data.views.image.scale = (0.5, 1.0)
    config.data.views.raw = recipes.view((32, 32)) | {"same_as": "image", "normalize": False}

    config.evaluation.linear.feature = "pooled"
    return config
