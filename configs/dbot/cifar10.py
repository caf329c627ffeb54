"""dBOT on CIFAR-10 at 32 pixels, ViT-Ti/4 by default: one stage, or several as one pipeline.

mim-jax train --config configs/dbot/cifar10.py --workdir runs/dbot1                        a random teacher
mim-jax train --config configs/dbot/cifar10.py:teacher=runs/dbot1 --workdir runs/dbot2     the stage after it
mim-jax train --config configs/dbot/cifar10.py:stages=2 --workdir runs/dbot                both
"""

from ml_collections import ConfigDict

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        epochs=400.0,  # of a stage
        stages=1,
        teacher="",  # run of the stage before; '': the student's own random start
        batch_size=512,
        lr=1.5e-4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    if args.stages == 1:
        return stage(args, args.teacher)
    names = [f"stage{number + 1}" for number in range(args.stages)]
    before = [args.teacher, *(f"stage:{name}" for name in names)]
    return ConfigDict({"stages": {name: stage(args, teacher) for name, teacher in zip(names, before, strict=False)}})


def stage(args, teacher):
    config = recipes.pretrain("cifar10")

    config.model = variant(args.variant, image_size=(32, 32))
    config.method = {
        "name": "dbot",
        "mask_ratio": 0.75,
        "normalize_target": True,
        "beta": 2.0,
        "decoder_width": 96,
        "decoder_depth": 4,
        "decoder_heads": 3,
        "teacher": recipes.teacher(teacher, variant(args.variant, image_size=(32, 32)), "cifar10", norm=False),
    }

    recipes.on_cifar10(config, args)
    config.data.views.image.scale = (0.5, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"scale": (0.5, 1.0), "same_as": "image", "normalize": False}

    config.optimizer.clip_norm = 3.0
    return config
