"""iBOT on CIFAR-10 at 32 pixels, ViT-Ti/4 by default, with small crops of 16 pixels.

configs/ibot/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
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
        masking="block",  # block | random
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
        "name": "ibot",
        "masking": args.masking,
        "mask_ratio": (0.0, 0.3),
        "mask_ratio_spread": (0.0, 0.2),
        "mask_start_epoch": 0,
        "local_crops": args.local_crops,
        "local_size": (16, 16),
        "head": family.projection_head(args.outputs, hidden=512, bottleneck=128, train_gain=False),
        # At 0.07 from the start nothing is learned.
        "distillation": family.distillation(int(min(30, max(1, args.epochs / 10)))),
        "ema_momentum": 0.996,
    }

    colours = family.COLOURS | {"blur_radius": (0.1, 0.6)}  # of images a seventh as large as the original's
    whole = recipes.view((32, 32)) | colours | {"scale": (0.3, 1.0), "blur": 0.5}
    small = recipes.view((16, 16)) | colours | {"scale": (0.1, 0.3), "blur": 0.3}
    family.crops(config, whole, small, args.local_crops)

    family.optimizer(config, args.lr)
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.freeze_epochs = min(1.0, args.epochs)

    config.evaluation.knn.feature = "cls"
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(recipes.finetune_cifar10(precision=args.precision, pooling="cls"))
    return config
