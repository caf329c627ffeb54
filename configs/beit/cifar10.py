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

    config.model = variant(args.variant, image_size=(32, 32), **recipes.beit_encoder())
    config.method = {
        "name": "beit",
        "num_mask_patches": 26,  # 40 % of 64
        "min_block": 4,
        "masking": "block",
        "recover_all": False,
        "tokenizer": recipes.own_tokenizer(args.tokenizer, args.vocabulary),
    }

    config.data.views.tokens = recipes.view((32, 32)) | {"same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args)
    config.optimizer.warmup_inclusive = True
    return config
