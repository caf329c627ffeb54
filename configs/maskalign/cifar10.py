"""MaskAlign on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the teacher is the encoder of an earlier run.

    mim-jax train --config configs/mae/cifar10.py --workdir runs/mae
    mim-jax train --config configs/maskalign/cifar10.py:teacher=runs/mae --workdir runs/maskalign

The settings under method.teacher.model must be those of that run's encoder.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        teacher="",  # run folder, for instance of configs/mae/cifar10.py
        teacher_variant="Ti/4",
        epochs=400.0,
        batch_size=512,
        lr=1.5e-4,
        layer_weights="top5",
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32))
    config.method = {
        "name": "maskalign",
        "mask_ratio": 0.7,
        "masking": "attention",
        "target": "whiten",
        "fusion": "linear",
        "head": "linear",
        "layer_weights": args.layer_weights,
        "error": "smooth_l1",
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, image_size=(32, 32)), "cifar10"),
    }

    recipes.on_cifar10(config, args)
    config.data.views.image.scale = (0.5, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"scale": (0.5, 1.0), "same_as": "image", "normalize": False}

    config.optimizer.min_lr = 1e-5
    return config
