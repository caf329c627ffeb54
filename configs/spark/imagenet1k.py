"""SparK on ImageNet-1K: every published row as an argument.

    configs/spark/imagenet1k.py                                     ResNet-50, 1600 epochs
    configs/spark/imagenet1k.py:variant=convnext_small
    configs/spark/imagenet1k.py:variant=convnext_large,image_size=384,mask_ratio=0.75,batch_size=2048,lr=4e-4

The published numbers stand in results/spark.json, each with the argument that reproduces it. `source` defaults to the
array records that `tfds build imagenet2012` prepares; any other source of the data set serves.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_config import variant

# Fine-tuning by model and image side.
COLUMNS = (
    "batch_size", "epochs", "warmup_epochs", "optimizer", "lr", "layer_decay", "weight_decay",
    "mixup", "repeated", "drop_path_rate", "ema",
)  # fmt: skip
FINETUNE = {
    ("convnext_small", 224): (4096, 400.0, 20.0, "adamw", 2e-4, 0.7, 0.01, 0.8, 3, 0.3, 0.9999),
    ("convnext_base", 224): (4096, 400.0, 20.0, "adamw", 1e-4, 0.7, 0.01, 0.8, 3, 0.4, 0.9999),
    ("convnext_large", 224): (4096, 200.0, 10.0, "adamw", 1e-4, 0.7, 0.02, 0.8, 3, 0.5, 0.9999),
    ("convnext_large", 384): (1024, 200.0, 20.0, "adamw", 6e-5, 0.7, 0.01, 0.8, 3, 0.5, 0.99995),
    # The batch of the ResNets is 2048 in the README and 4096 in an earlier version of the code.
    ("resnet50", 224): (2048, 300.0, 5.0, "lamb", 2e-3, 0.7, 0.02, 0.1, 0, 0.05, 0.9999),
    ("resnet101", 224): (2048, 300.0, 5.0, "lamb", 1e-3, 0.8, 0.02, 0.1, 0, 0.2, 0.9999),
    ("resnet152", 224): (2048, 300.0, 5.0, "lamb", 1e-3, 0.8, 0.02, 0.1, 0, 0.2, 0.9999),
    ("resnet200", 224): (2048, 300.0, 5.0, "lamb", 1e-3, 0.8, 0.02, 0.1, 0, 0.2, 0.9999),
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="resnet50",  # resnet50, resnet101, resnet152, resnet200, convnext_small, convnext_base, convnext_large
        epochs=1600.0,
        batch_size=4096,
        lr=2e-4,  # per 256 images
        mask_ratio=0.6,
        image_size=224,
        decoder_width=768,
        drop_path_rate=-1.0,  # negative: what this size is pretrained with
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    side = (args.image_size, args.image_size)
    config.model = variant(args.variant, side)
    if args.drop_path_rate >= 0:
        config.model.drop_path_rate = args.drop_path_rate
    config.method = {
        "name": "spark",
        "mask_ratio": args.mask_ratio,
        "decoder_width": args.decoder_width,
        "densify_norm": "auto",
    }

    config.data.views.image.size = side
    config.data.views.image.scale = (0.67, 1.0)
    config.data.eval_resize = round(args.image_size * 256 / 224)

    config.optimizer.update(name="lamb", eps=1e-6, clip_norm=5.0, weight_decay=0.04, weight_decay_end=0.2)
    config.optimizer.update(lr=args.lr, warmup_lr=0.005 * args.lr, min_lr=0.001 * args.lr, scale_min_lr=True)
    config.optimizer.end_inclusive = True
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.b2 = 0.95 if args.variant.startswith("resnet") else 0.999

    config.evaluation.linear.feature = "pooled"
    config.evaluation.finetune.update(
        dict(zip(COLUMNS, FINETUNE.get((args.variant, args.image_size), ()), strict=False))
    )
    if args.variant.startswith("resnet"):
        config.evaluation.finetune.criterion = "binary"
    return config
