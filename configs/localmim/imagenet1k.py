"""LocalMIM on ImageNet-1K: every published row as an argument.

    configs/localmim/imagenet1k.py                        ViT-B/16, 1600 epochs
    configs/localmim/imagenet1k.py:variant=L/16           ViT-L/16, 800 epochs, 18 orientations, constant offsets
    configs/localmim/imagenet1k.py:epochs=100             the short run, with its own warm-up and fine-tuning
    configs/localmim/imagenet1k.py:variant=swin-B         Swin-B, 400 epochs, histograms
    configs/localmim/imagenet1k.py:variant=swin-B,target=norm_pix
    configs/localmim/imagenet1k.py:variant=swin-L         Swin-L, 800 epochs

The published numbers stand in results/localmim.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.swin_config import swin_variant
from mim_jax.models.vit_config import variant

SIZES = {
    "B": {"epochs": 1600.0, "bins": 9, "bias": False, "batch_size": 2048, "lr": 2e-4},
    "L": {"epochs": 800.0, "bins": 18, "bias": True, "batch_size": 4096, "lr": 1.5e-4},
    "swin-B": {"epochs": 400.0, "window": 7, "batch_size": 2048, "lr": 1e-4},
    "swin-L": {"epochs": 800.0, "window": 14, "batch_size": 4096, "lr": 1e-4},
}
FINETUNE = {
    "B": {
        "epochs": 100.0,
        "warmup_epochs": 20.0,
        "lr": 2e-3,
        "min_lr": 1e-5,
        "layer_decay": 0.65,
        "drop_path_rate": 0.1,
    },
    "L": {"epochs": 50.0, "warmup_epochs": 5.0, "lr": 3e-3, "min_lr": 1e-6, "layer_decay": 0.75, "drop_path_rate": 0.2},
    "swin-B": {"lr": 4e-3, "layer_decay": 0.9, "drop_path_rate": 0.1},
    "swin-L": {"lr": 2e-3, "layer_decay": 0.8, "drop_path_rate": 0.3, "batch_size": 2048},
}
SWIN = {"epochs": 100.0, "warmup_epochs": 20.0, "min_lr": 2.5e-7}
SHORT = {"B": {"lr": 4e-3, "layer_decay": 0.75, "min_lr": 1e-6}, "swin-B": {"lr": 5e-3}}  # after 100 epochs


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16, L/16, swin-B or swin-L
        epochs=0.0,  # 0: as published for the size
        target="hog",  # hog, or for Swin norm_pix
        places="listed",  # of Swin: listed (the released code's) | true
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    kind = name.partition("/")[0]
    swin = name.startswith("swin-")
    if (swin and kind not in SIZES) or (args.target != "hog" and not swin):
        raise ConfigError(
            f"argument variant={name} with target={args.target} is not one of B/16, L/16, swin-B and swin-L with hog, "
            "swin-B and swin-L with norm_pix"
        )
    size = SIZES.get(kind, SIZES["B"])
    epochs = args.epochs or size["epochs"]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.method = {"name": "localmim", "mask_ratio": 0.75, "target": args.target, "decoder_depth": 1}
    if swin:
        config.model = swin_variant("swin", name.removeprefix("swin-"), (224, 224), size["window"])
        config.model.update(layer_norm_eps=1e-6)
        swin_only = {"mask_group": 0, "places": args.places, "decoder_width": 128, "decoder_heads": 4}
        config.method.update({"hog_bins": 18, "hog_bias": True, **swin_only})
        config.evaluation.linear.feature = "pooled"
    else:
        config.model = variant(name)
        vit_only = {"taps": (), "decoder_width": 256, "decoder_heads": 8}
        config.method.update({"hog_bins": size["bins"], "hog_bias": size["bias"], **vit_only})

    config.training.epochs = epochs
    config.training.batch_size = size["batch_size"]
    config.optimizer.lr = size["lr"]
    config.optimizer.min_lr = 0.0 if swin else 1e-6
    config.optimizer.warmup_epochs = 10.0 if epochs <= 100 else 40.0
    config.optimizer.weight_decay = 0.05

    finetune = (SWIN if swin else {}) | FINETUNE.get(kind, {})
    if kind == "swin-B" and args.target == "hog" and epochs > 100:
        finetune |= {"batch_size": 2048}
    config.evaluation.finetune.update(finetune | (SHORT.get(kind, {}) if epochs <= 100 else {}))
    config.evaluation.finetune.lr_batch = 0  # absolute rates
    return config
