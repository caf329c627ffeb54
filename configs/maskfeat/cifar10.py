"""MaskFeat on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; one HOG cell per patch.

configs/maskfeat/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
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
        lr=2e-4,
        target="hog",
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32), positions="learned", init="maskfeat")
    config.method = {
        "name": "maskfeat",
        "mask_ratio": 0.4,
        "target": args.target,
        "hog_cell": 4,
        "hog_bins": 9,
        "gaussian_window": 0,
    }

    recipes.on_cifar10(config, args)
    config.data.views.image.scale = (0.5, 1.0)

    config.optimizer.min_lr = 1e-6
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 0.02
    return config
