"""iBOT on ImageNet: every published ViT row as an argument.

    configs/ibot/imagenet1k.py                              ViT-S/16, 800 epochs, blocks
    configs/ibot/imagenet1k.py:variant=B/16,masking=random  ViT-B/16, 400 epochs, single patches
    configs/ibot/imagenet1k.py:variant=L/16,data=22k        ViT-L/16 on ImageNet-22K

The published numbers stand in results/ibot.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant
from mim_jax.recipes import self_distillation as family

PRETRAIN = {
    "S": {"epochs": 800.0, "lr": 5e-4, "train_gain": True},
    # uncertain: of B and L the rate, the clipping and the gain are from memory; the repository names files of arguments
    # that are not in it.
    "B": {"epochs": 400.0, "lr": 7.5e-4, "train_gain": False},
    "L": {"epochs": 250.0, "lr": 7.5e-4, "train_gain": False},
}
EPOCHS_22K = {"B": 80.0, "L": 50.0}  # uncertain
CLIP = {"S": 3.0, "B": 0.3, "L": 0.3}  # uncertain for B and L: 0.3 to 3
LOCAL_SCALE = {"S": (0.05, 0.25), "B": (0.05, 0.32), "L": (0.05, 0.32)}  # uncertain for B and L
GLOBAL_SCALE = {"S": (0.25, 1.0), "B": (0.32, 1.0), "L": (0.32, 1.0)}  # uncertain for B and L
MASKING = {
    "block": {"mask_ratio": (0.0, 0.3), "mask_ratio_spread": (0.0, 0.2)},
    "random": {"mask_ratio": (0.0, 0.65), "mask_ratio_spread": (0.0, 0.05)},  # uncertain: 0.65 to 0.75
}
FINETUNE = {  # the released scripts sweep the rate; BEiT's code
    "S": {"epochs": 200.0, "drop_path_rate": 0.1, "layer_decay": 0.75, "warmup_epochs": 20.0},
    "B": {"epochs": 100.0, "drop_path_rate": 0.2, "layer_decay": 0.65, "warmup_epochs": 20.0},
    "L": {"epochs": 50.0, "drop_path_rate": 0.4, "layer_decay": 0.75, "warmup_epochs": 5.0},
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # S/16, B/16 or L/16
        data="1k",  # 1k | 22k
        masking="block",  # block | random
        epochs=0.0,  # 0: as published
        local_crops=10,
        source="",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    name = args.variant or "S/16"
    size = name.partition("/")[0]
    if size not in PRETRAIN:
        raise ConfigError(f"argument variant={name} is not one of {', '.join(f'{size}/16' for size in PRETRAIN)}")
    if args.masking not in MASKING:
        raise ConfigError(f"argument masking={args.masking} is not one of {', '.join(MASKING)}")
    if args.data not in ("1k", "22k") or (args.data == "22k" and size not in EPOCHS_22K):
        raise ConfigError(f"argument data={args.data} is not one of 1k, 22k (B/16 and L/16)")
    published = PRETRAIN[size]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, positions="learned", position_offset=0.1, init="ibot", drop_path_rate=0.1)
    config.method = {
        "name": "ibot",
        "masking": args.masking,
        **MASKING[args.masking],
        "mask_start_epoch": 0,
        "local_crops": args.local_crops,
        "local_size": (96, 96),
        "head": family.projection_head(train_gain=published["train_gain"]),
        "distillation": family.distillation(),
        "ema_momentum": 0.996,
    }

    config.data.source = args.source or {"1k": "tfds:imagenet2012:train", "22k": "folder:imagenet22k"}[args.data]
    scale = GLOBAL_SCALE[size] if args.local_crops else (0.14, 1.0)
    whole = recipes.view() | family.COLOURS | {"scale": scale, "blur": 1.0}
    small = recipes.view((96, 96)) | family.COLOURS | {"scale": LOCAL_SCALE[size], "blur": 0.5}
    family.crops(config, whole, small, args.local_crops)

    config.training.epochs = args.epochs or (EPOCHS_22K[size] if args.data == "22k" else published["epochs"])
    config.training.batch_size = 1024
    family.optimizer(config, published["lr"], CLIP[size])

    config.evaluation.knn.k = (10, 20, 100, 200)
    config.evaluation.knn.feature = "cls"
    # The original tries many rates with SGD, on class tokens of the last four blocks (S) or on class token and mean
    # patch of the last (B, L); here a probe is MAE's, on the last block.
    config.evaluation.linear.epochs = 100.0
    config.evaluation.linear.feature = "cls" if size == "S" else "both"
    config.evaluation.finetune.update(FINETUNE[size])
    config.evaluation.finetune.update({"batch_size": 1024, "lr": 4e-3, "lr_batch": 0, "pooling": "cls"})
    return config
