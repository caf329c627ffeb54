"""EVA-02 on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the teacher is the encoder of an earlier run.

    mim-jax train --config configs/mae/cifar10.py --workdir runs/mae
    mim-jax train --config configs/eva02/cifar10.py:teacher=runs/mae --workdir runs/eva02

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

    block = {"mlp": "swiglu_exact", "mlp_ratio": 8 / 3, "qkv_bias": "qv", "patch_gradient": 0.1, "init": "eva02"}
    config.model = variant(args.variant, image_size=(32, 32), positions="learned", rope=8, **block)
    config.method = {
        "name": "eva02",
        "num_mask_patches": 26,
        "min_block": 4,
        "predict_cls": False,
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, image_size=(32, 32)), "cifar10"),
    }

    config.data.views.image.scale = (0.4, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"scale": (0.4, 1.0), "same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args, b2=0.98)
    config.optimizer.eps = 1e-6
    return config
