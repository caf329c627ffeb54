"""SimMIM on CIFAR-10 at 32 pixels, ViT-Ti/4 by default.

configs/simmim/cifar10.py:epochs=400,variant=swin-T,source=parquet:data/cifar10/train-*.parquet,eval_source=...

The Swin variants are cut to three stages on patches of 2 pixels (grids of 16, 8 and 4, windows of 4), so that one token
of the last stage stands for 8 pixels, the side of the squares that are hidden.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.methods.simmim import VIT
from mim_jax.models.swin_config import swin_variant
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",  # a vision transformer such as Ti/4, swin-T or swinv2-T
        epochs=400.0,
        batch_size=512,
        lr=4e-4,
        mask_unit=8,
        target="",  # pixel | local_norm; '': local_norm for swinv2
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    arch, _, size = args.variant.rpartition("-")
    if arch in ("", "vit"):
        config.model = {"arch": "vit", **variant(size, image_size=(32, 32), **VIT)}
    else:
        config.model = swin_variant(arch, size, (32, 32), window_size=4)
        stages = {key: config.model[key][:3] for key in ("depths", "heads")}
        config.model.update(patch_size=(2, 2), **stages)
    config.method = {
        "name": "simmim",
        "mask_ratio": 0.6,
        "mask_unit": args.mask_unit,
        "target": args.target or ("local_norm" if arch == "swinv2" else "pixel"),
        "target_window": 9,  # about the same share of the image as 47 of 192
    }

    config.data.views.image.scale = (0.67, 1.0)
    config.data.views.image.interpolation = "bilinear"

    config.optimizer.lr_batch = 512
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0

    config.evaluation.linear.feature = "pooled"
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(recipes.finetune_cifar10(precision=args.precision))
    return config
