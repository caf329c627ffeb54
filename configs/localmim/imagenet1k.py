"""LocalMIM (ViT) on ImageNet-1K: every published row as an argument.

    configs/localmim/imagenet1k.py                        ViT-B/16, 1600 epochs
    configs/localmim/imagenet1k.py:variant=L/16           ViT-L/16, 800 epochs, 18 orientations, constant offsets
    configs/localmim/imagenet1k.py:epochs=100             the short run, with its own warm-up and fine-tuning

The published numbers stand in results/localmim.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

SIZES = {
    "B": {"epochs": 1600.0, "bins": 9, "bias": False, "batch_size": 2048, "lr": 2e-4},
    "L": {"epochs": 800.0, "bins": 18, "bias": True, "batch_size": 4096, "lr": 1.5e-4},
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
}
SHORT = {"lr": 4e-3, "layer_decay": 0.75, "min_lr": 1e-6}  # of B after 100 epochs


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=0.0,  # 0: as published for the size
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    size = SIZES.get(name.partition("/")[0], SIZES["B"])
    epochs = args.epochs or size["epochs"]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name)
    config.method = {
        "name": "localmim",
        "mask_ratio": 0.75,
        "target": "hog",
        "taps": (),
        "hog_bins": size["bins"],
        "hog_bias": size["bias"],
        "decoder_width": 256,
        "decoder_depth": 1,
        "decoder_heads": 8,
    }

    config.training.epochs = epochs
    config.training.batch_size = size["batch_size"]
    config.optimizer.lr = size["lr"]
    config.optimizer.min_lr = 1e-6
    config.optimizer.warmup_epochs = 10.0 if epochs <= 100 else 40.0
    config.optimizer.weight_decay = 0.05

    finetune = FINETUNE.get(name.partition("/")[0], {})
    config.evaluation.finetune.update(finetune | (SHORT if epochs <= 100 and name.startswith("B") else {}))
    config.evaluation.finetune.lr_batch = 0  # absolute rates
    return config
