"""AttMask on CIFAR-10 at 32 pixels, ViT-Ti/4 by default, with small crops of 16 pixels.

configs/attmask/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant
from mim_jax.recipes import self_distillation as family


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        epochs=400.0,
        batch_size=512,
        lr=5e-4,
        masking="high",  # high | hint | low
        local_crops=4,
        outputs=1024,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    size = {"image_size": (32, 32), "drop_path_rate": 0.1}
    config.model = variant(args.variant, positions="learned", position_offset=0.1, init="ibot", **size)
    config.method = {
        "name": "attmask",
        "masking": args.masking,
        "mask_ratio": 0.3,
        "mask_ratio_spread": 0.2,
        "masked_share": 0.5,
        "hint_share": 0.1,
        "mask_group": 0,
        "mask_start_epoch": 0,
        "local_crops": args.local_crops,
        "local_size": (16, 16),
        **family.small_heads(args),
        "ema_momentum": 0.996,
    }

    family.on_cifar10(config, args)
    return config
