"""BEiT v2 on CIFAR-10 at 32 pixels, ViT-Ti/4 by default; the tokenizer comes from configs/vqkd/cifar10.py.

mim-jax train --config configs/vqkd/cifar10.py:teacher=runs/mae --workdir runs/vqkd
mim-jax train --config configs/beitv2/cifar10.py:tokenizer=runs/vqkd --workdir runs/beitv2
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


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

    beit = {"positions": "none", "qkv_bias": "qv", "relative_bias": "shared", "layer_scale": 0.1, "init": "beit"}
    config.model = variant(args.variant, image_size=(32, 32), **beit)
    config.method = {
        "name": "beitv2",
        "num_mask_patches": 26,
        "min_block": 4,
        "masking": "block",
        "recover_all": False,
        "early_layers": args.early_layers,
        "head_layers": 2,
        "shared_head": True,
        "tokenizer": {
            "kind": "vqkd",
            "source": args.tokenizer,
            "image_size": (32, 32),
            "channels": 3,
            "stride": 4,
            "vocabulary": args.vocabulary,
            "hidden": 192,
            "blocks": 6,
            "heads": 3,
            "code_width": 32,
            "distance": "cosine",
        },
    }

    config.data.views.image.scale = (0.4, 1.0)
    config.data.views.tokens = recipes.view((32, 32)) | {"scale": (0.4, 1.0), "same_as": "image", "normalize": False}

    config.optimizer.lr_batch = 512
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(recipes.finetune_cifar10(precision=args.precision, relative_bias="per_block"))
    return config
