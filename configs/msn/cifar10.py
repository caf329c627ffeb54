"""MSN on CIFAR-10 at 32 pixels, ViT-Ti/4 by default, with small crops of 16 pixels.

configs/msn/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
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
        lr=2.5e-4,
        local_crops=4,
        prototypes=128,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32), positions="learned", init="msn")
    config.method = {
        "name": "msn",
        "patch_drop": 0.15,
        "shared_drop": True,
        "whole_anchors": 1,
        "local_crops": args.local_crops,
        "local_size": (16, 16),
        "head_hidden": 512,
        "head_outputs": 128,
        "head_norm": "batch",
        "prototypes": args.prototypes,
        "assignment": {
            "temperature": 0.1,
            "sharpening": 0.25,
            "sharpening_end": 0.25,
            "sinkhorn": 3,
            "memax_weight": 1.0,
            "entropy_weight": 0.0,
            "label_smoothing": 0.0,
        },
        "ema_momentum": 0.996,
    }

    recipes.on_cifar10(config, args)
    effects = {"color_jitter": 0.4, "color_jitter_hue": 0.1, "color_jitter_probability": 0.8, "grayscale": 0.2}
    effects |= {"blur": 0.5, "blur_radius": (0.1, 0.6)}  # of images a seventh as large as the original's
    whole = recipes.view((32, 32)) | effects | {"scale": (0.3, 1.0), "interpolation": "bilinear"}
    config.data.views.image = whole
    config.data.views.image2 = whole
    if args.local_crops:
        config.data.views.local = whole | {"size": (16, 16), "scale": (0.1, 0.3), "count": args.local_crops}

    config.optimizer.min_lr = 1e-6
    config.optimizer.schedule_stretch = 1.25
    config.optimizer.schedule_offset = 1
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.04
    config.optimizer.weight_decay_end = 0.4
    config.optimizer.clip_norm = 3.0

    config.evaluation.knn.feature = "cls"
    config.evaluation.linear.feature = "cls"
    config.evaluation.finetune.pooling = "cls"
    return config
