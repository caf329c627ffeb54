"""VQ-KD on CIFAR-10 at 32 pixels: 8 x 8 tokens of 4 pixels; the teacher is the encoder of an earlier run.

    mim-jax train --config configs/mae/cifar10.py --workdir runs/mae
    mim-jax train --config configs/vqkd/cifar10.py:teacher=runs/mae --workdir runs/vqkd

The settings under method.teacher.model must be those of that run's encoder.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant
from mim_jax.recipes import tokenizers


def get_config(arg=None):
    args = arguments(
        arg,
        teacher="",  # run folder, for instance of configs/mae/cifar10.py
        teacher_variant="Ti/4",
        vocabulary=512,
        epochs=50.0,
        batch_size=512,
        lr=2e-4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = tokenizers.SMALL_VQKD | {"vocabulary": args.vocabulary}
    config.method = {
        "name": "vqkd",
        "decoder_width": 192,
        "decoder_depth": 1,
        "decoder_heads": 3,
        "commitment": 1.0,
        "codebook_decay": 0.99,
        "start": "kmeans",
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, image_size=(32, 32)), "cifar10"),
    }

    tokenizers.plain_pixels(config, 32)
    config.data.views.image.scale = (0.3, 1.0)
    config.data.views.teacher = recipes.view((32, 32)) | {"scale": (0.3, 1.0), "same_as": "image", "normalize": False}

    config.training.evaluate.loss_every_epochs = 10.0
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = args.epochs / 10
    config.optimizer.weight_decay = 1e-4
    return config
