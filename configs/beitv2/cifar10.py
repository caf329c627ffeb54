"""BEiT v2 on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the tokenizer comes from configs/vqkd/cifar10.py.

mim-jax train --config configs/vqkd/cifar10.py:teacher=runs/mae --workdir runs/vqkd
mim-jax train --config configs/beitv2/cifar10.py:tokenizer=runs/vqkd --workdir runs/beitv2
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant
from mim_jax.recipes import tokenizers


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        tokenizer="",
        vocabulary=512,
        early_layers=9,
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
        "name": "beitv2",
        "num_mask_patches": 26,
        "min_block": 4,
        "masking": "block",
        "recover_all": False,
        "early_layers": args.early_layers,
        "head_layers": 2,
        "shared_head": True,
        "tokenizer": tokenizers.SMALL_VQKD | {"source": args.tokenizer, "vocabulary": args.vocabulary},
    }

    config.data.views.image.scale = (0.4, 1.0)
    config.data.views.tokens = recipes.view((32, 32)) | {"scale": (0.4, 1.0), "same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args, b2=0.98, relative_bias="per_block")
    return config
