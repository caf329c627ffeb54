"""dBOT's second form on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the teacher is the encoder of an earlier run.

    mim-jax train --config configs/mae/cifar10.py --workdir runs/mae
    mim-jax train --config configs/dbot_beit/cifar10.py:teacher=runs/mae --workdir runs/dbot_beit

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
        lr=7.5e-4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = variant(args.variant, image_size=(32, 32), **recipes.beit_encoder())
    config.method = {
        "name": "dbot_beit",
        "num_mask_patches": 26,
        "min_block": 4,
        "predict_cls": False,
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, image_size=(32, 32)), "cifar10"),
    }

    config.data.views.image.scale = (0.4, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"scale": (0.4, 1.0), "same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args, b2=0.98, relative_bias="per_block")
    config.optimizer.eps = 1e-6
    return config
