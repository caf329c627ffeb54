"""CAE on CIFAR-10 at 32 pixels, ViT-Ti/4 by default, with a tokenizer of our own.

    mim-jax train --config configs/tokenizer/cifar10.py --workdir runs/tokenizer
    mim-jax train --config configs/cae/cifar10.py:tokenizer=runs/tokenizer --workdir runs/cae

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
        decoder_width=192,
        regressor_depth=2,
        decoder_depth=2,
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
        "name": "cae",
        "masking": "block",
        "num_mask_patches": 0,
        "mask_ratio": 0.5,
        "min_block": 4,
        "regressor_depth": args.regressor_depth,
        "decoder_depth": args.decoder_depth,
        "decoder_width": args.decoder_width,
        "decoder_heads": args.decoder_width // 32,
        "decoder_layer_scale": 0.1,
        "align_weight": 2.0,
        "feed_queries": True,
        "tokenizer": recipes.own_tokenizer(args.tokenizer, args.vocabulary),
    }

    config.data.views.tokens = recipes.view((32, 32)) | {"same_as": "image", "normalize": False}

    recipes.beit_on_cifar10(config, args, relative_bias="per_block")
    config.optimizer.warmup_inclusive = True
    config.evaluation.attentive.batch_size = 2048
    return config
