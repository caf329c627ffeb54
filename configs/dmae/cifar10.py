"""DMAE on CIFAR-10 at 32 pixels, ViT-S/4 to ViT-Ti/4 by default; `teacher` is a run of configs/mae/cifar10.py.

configs/dmae/cifar10.py:teacher=runs/mae,source=parquet:data/cifar10/train-*.parquet,eval_source=...
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
        lr=1.5e-4,
        target="pixel",
        teacher="",
        teacher_variant="S/4",
        decoder_width=192,
        decoder_depth=4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32))
    teacher = variant(args.teacher_variant, image_size=(32, 32))
    config.method = {
        "name": "dmae",
        "mask_ratio": 0.75,
        "target": args.target,
        # Both see the same pixels, so mean and std are those of the data.
        "teacher": {
            **{"source": args.teacher, "model": teacher},
            **{"mean": recipes.CIFAR10["mean"], "std": recipes.CIFAR10["std"]},
        },
        "blocks": (config.model.depth * 3 // 4 - 1,),
        "teacher_blocks": (teacher["depth"] * 3 // 4 - 1,),
        "projection": "linear",
        "feature_loss": "l1",
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
    }

    recipes.on_cifar10(config, args)
    return config
