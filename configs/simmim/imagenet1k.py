"""SimMIM on ImageNet-1K: every published row as an argument.

    configs/simmim/imagenet1k.py                                    Swin-B at 192 pixels, 800 epochs
    configs/simmim/imagenet1k.py:epochs=100                         the ablations' recipe (cosine)
    configs/simmim/imagenet1k.py:variant=vit-B                      ViT-B/16 at 224 pixels
    configs/simmim/imagenet1k.py:variant=vit-B,recipe=paper         with the paper's schedule, not the released one
    configs/simmim/imagenet1k.py:variant=swinv2-H,iterations=125000,fraction=0.5     the data-scaling study

The published numbers stand in results/simmim.json, each with the argument that reproduces it. For ImageNet-22K give
`source` and its number of `images`.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.methods.simmim import VIT
from mim_jax.models.swin_config import swin_variant
from mim_jax.models.vit_config import variant

BATCH = 2048
LAYER_DECAY = {  # and drop path, of fine-tuning; Swin-B after 100 epochs takes 0.9
    "swin-B": (0.8, 0.1),
    "swin-L": (0.7, 0.2),
    "vit-B": (0.65, 0.1),
    "swinv2-B": (0.75, 0.1),
    "swinv2-S": (0.75, 0.1),  # uncertain: only Swin V2-B is in the released configs, here and below
    "swinv2-L": (0.75, 0.1),  # uncertain
    "swinv2-H": (0.75, 0.1),  # uncertain
    "swinv2-g": (0.75, 0.1),  # uncertain
}
FINETUNE = {
    "epochs": 100.0,
    "warmup_epochs": 20.0,
    "batch_size": BATCH,
    "lr": 1.25e-3,
    "lr_batch": 512,
    "min_lr": 2.5e-7,
    "warmup_lr": 2.5e-7,
    "scale_min_lr": True,
    "schedule": "cosine_whole",
    "weight_decay": 0.05,
    "clip_norm": 5.0,
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="swin-B",  # swin-B, swin-L, vit-B, swinv2-S, -B, -L, -H or -g
        epochs=800.0,
        iterations=0,  # 125000, 250000 or 500000: the length in steps instead of epochs (data scaling)
        fraction=1.0,  # share of the training images
        target="",  # pixel | local_norm; '': local_norm for swinv2
        recipe="released",  # released | paper: they differ for vit-B
        remat="none",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        images=1_281_167,  # in `source`
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    if args.variant not in LAYER_DECAY:
        raise ConfigError(f"argument variant={args.variant} is not one of {', '.join(LAYER_DECAY)}")
    if args.recipe not in ("released", "paper") or (args.recipe == "paper" and args.variant != "vit-B"):
        raise ConfigError(f"argument recipe={args.recipe} is not one of released and, for vit-B alone, paper")
    arch, _, size = args.variant.partition("-")
    side = 224 if arch == "vit" else 192
    config = recipes.pretrain()
    recipes.place(config, args)

    if arch == "vit":
        config.model = {"arch": "vit", **variant(f"{size}/16", **VIT)}
    else:
        config.model = swin_variant(arch, size)
    config.model.drop_path_rate = 0.0 if arch == "swin" else 0.1  # uncertain for Swin V2 beside B
    config.model.remat = args.remat
    config.method = {
        "name": "simmim",
        "mask_ratio": 0.6,
        "mask_unit": 32,
        "target": args.target or ("local_norm" if arch == "swinv2" else "pixel"),
        "target_window": 47,
    }

    config.data.fraction = args.fraction
    config.data.eval_resize = int(256 / 224 * side)
    config.data.views.image.size = (side, side)
    config.data.views.image.scale = (0.67, 1.0)
    config.data.views.image.interpolation = "bilinear"

    epochs = args.epochs
    if args.iterations:
        epochs = args.iterations / max(round(args.images * args.fraction) // BATCH, 1)
    config.training.epochs = epochs
    config.training.batch_size = BATCH
    short = args.variant == "swin-B" and epochs <= 100 and not args.iterations
    config.optimizer.update(optimizer(args, epochs, short))

    layer_decay, drop_path_rate = LAYER_DECAY[args.variant]
    config.evaluation.linear.feature = "pooled"
    config.evaluation.finetune.update(FINETUNE)
    config.evaluation.finetune.layer_decay = 0.9 if short else layer_decay
    config.evaluation.finetune.drop_path_rate = drop_path_rate
    return config


def optimizer(args, epochs, short):
    """Changes of AdamW's section; a short run of Swin-B has the ablations' schedule."""
    same = {
        "lr_batch": 512,
        "scale_min_lr": True,
        "schedule_offset": -1,  # the original moves its schedule after the step
        "b2": 0.999,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
    }
    if short or args.recipe == "paper":
        # uncertain: warm-up's start and minimum of the paper's recipe for ViT-B
        warmup = {"warmup_epochs": min(20.0 if args.recipe == "paper" else 10.0, epochs), "warmup_lr": 1e-6}
        return same | warmup | {"schedule": "cosine_whole", "lr": 2e-4, "min_lr": 1e-5}
    warmup = min(10.0 / args.fraction if args.iterations else 10.0, epochs / 8)
    return same | {
        "schedule": "step",
        "lr": 1e-4,
        "warmup_lr": 5e-7,  # uncertain for the data-scaling study, as is its warm-up
        "warmup_epochs": warmup,
        "decay_epochs": (epochs * 7 / 8,),
    }
