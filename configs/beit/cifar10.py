"""BEiT on CIFAR-10 at 32 pixels, ViT-Ti/4 by default, with a tokenizer of our own.

    mim-jax train --config configs/tokenizer/cifar10.py --workdir runs/tokenizer
    mim-jax train --config configs/beit/cifar10.py:tokenizer=runs/tokenizer --workdir runs/beit

The settings under method.tokenizer must be those of the tokenizer's run.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        tokenizer="",  # run folder of configs/tokenizer/cifar10.py
        vocabulary=512,
        epochs=400.0,
        batch_size=512,
        lr=7.5e-4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = variant(
        args.variant,
        image_size=(32, 32),
        positions="none",
        relative_bias="shared",
        qkv_bias="qv",
        layer_scale=0.1,
        drop_path_rate=0.0,
        init="beit",
    )
    config.method = {
        "name": "beit",
        "num_mask_patches": 26,  # 40 % of 64
        "min_block": 4,
        "masking": "block",
        "recover_all": False,
        "tokenizer": {
            "kind": "vq",
            "source": args.tokenizer,
            "image_size": (32, 32),
            "stride": 4,
            "vocabulary": args.vocabulary,
            "hidden": 64,
        },
    }

    config.data.views.tokens = recipes.view((32, 32)) | {"same_as": "image", "normalize": False}

    config.optimizer.lr_batch = 512
    config.optimizer.min_lr = 1e-5
    config.optimizer.b2 = 0.999
    config.optimizer.warmup_inclusive = True
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(recipes.finetune_cifar10(precision=args.precision))
    return config
