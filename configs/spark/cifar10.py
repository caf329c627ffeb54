"""SparK on CIFAR-10 at 32 pixels, ResNet-18 by default: a stem without stride, so that a cell is 8 x 8 pixels.

configs/spark/cifar10.py:epochs=400,variant=convnext_tiny,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="resnet18",
        epochs=400.0,
        batch_size=512,
        lr=1e-3,  # uncertain: the published rate is for batches of 4096, and LAMB does not scale linearly
        mask_ratio=0.6,
        stem_stride=1,
        decoder_width=128,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = variant(args.variant, image_size=(32, 32), stem_stride=args.stem_stride)
    config.method = {
        "name": "spark",
        "mask_ratio": args.mask_ratio,
        "decoder_width": args.decoder_width,
        "densify_norm": "auto",
    }

    config.data.views.image.scale = (0.67, 1.0)

    config.optimizer.update(name="lamb", eps=1e-6, clip_norm=5.0, weight_decay=0.04, weight_decay_end=0.2)
    config.optimizer.update(lr=args.lr, warmup_lr=0.005 * args.lr, min_lr=0.001 * args.lr, scale_min_lr=True)
    config.optimizer.end_inclusive = True
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)

    config.evaluation.linear.batch_size = 4096
    config.evaluation.linear.feature = "pooled"
    config.evaluation.finetune.update(
        recipes.finetune_cifar10(precision=args.precision, layer_decay=0.7, drop_path_rate=0.05)
    )
    return config
