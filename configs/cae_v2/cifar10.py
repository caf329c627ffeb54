"""CAE v2 on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the teacher is the encoder of an earlier run.

    mim-jax train --config configs/mae/cifar10.py --workdir runs/mae
    mim-jax train --config configs/cae_v2/cifar10.py:teacher=runs/mae --workdir runs/cae_v2

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
        decoder_width=192,
        regressor_depth=2,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = variant(
        args.variant, image_size=(32, 32), positions="sincos_row", qkv_bias="qv", layer_scale=0.1, init="cae"
    )
    config.method = {
        "name": "cae_v2",
        "masking": "block",
        "num_mask_patches": 0,
        "mask_ratio": 0.5,
        "min_block": 4,
        "regressor_depth": args.regressor_depth,
        "decoder_width": args.decoder_width,
        "decoder_heads": args.decoder_width // 32,
        "decoder_layer_scale": 0.1,
        "feed_queries": True,
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, image_size=(32, 32)), "cifar10"),
    }

    config.data.views.image.scale = (0.4, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args, relative_bias="per_block")
    config.optimizer.warmup_inclusive = True
    config.evaluation.attentive.batch_size = 2048
    return config
