"""MAE on ImageNet-1K: every published row as an argument.

    configs/mae/imagenet1k.py                                        ViT-B/16, 1600 epochs, standardised pixels
    configs/mae/imagenet1k.py:variant=L/16,epochs=800,target=pixel   the ablations' baseline

The published numbers stand in results/mae.json, each with the argument that reproduces it. `source` defaults to the
array records that `tfds build imagenet2012` prepares; any other source of the data set serves.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

# Fine-tuning differs by size (released recipe for models pretrained on standardised pixels).
FINETUNE = {
    "B": {"epochs": 100.0, "lr": 5e-4, "layer_decay": 0.65, "drop_path_rate": 0.1},
    "L": {"epochs": 50.0, "lr": 1e-3, "layer_decay": 0.75, "drop_path_rate": 0.2},
    "H": {"epochs": 50.0, "lr": 1e-3, "layer_decay": 0.75, "drop_path_rate": 0.3},
}
# And for models pretrained on raw pixels (the paper's ablations).
FINETUNE_PIXEL = {
    "B": {"lr": 1e-3, "layer_decay": 0.75, "drop_path_rate": 0.1},
    "L": {"lr": 1e-3, "layer_decay": 0.75, "drop_path_rate": 0.1},
    "H": {"lr": 1e-3, "layer_decay": 0.75, "drop_path_rate": 0.2},
}
AUGMENTATIONS = {  # table 1e
    "none": {"crop": "center", "flip": 0.0},
    "fixed": {"scale": (1.0, 1.0)},  # uncertain: the paper does not say how a crop of fixed size is taken
    "random": {},
    "jitter": {"color_jitter": 0.4},  # uncertain: the paper does not give the strength
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16, L/16 or H/14
        epochs=1600.0,
        target="norm_pix",
        mask_ratio=0.75,
        masking="random",
        encoder_mask_tokens=False,
        decoder_depth=8,
        decoder_width=512,
        augmentation="random",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    size = name.partition("/")[0]
    if args.augmentation not in AUGMENTATIONS:
        raise ConfigError(f"argument augmentation={args.augmentation} is not one of {', '.join(AUGMENTATIONS)}")
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name)
    config.method = {
        "name": "mae",
        "mask_ratio": args.mask_ratio,
        "masking": args.masking,
        "target": args.target,
        "pca_components": 96,
        "encoder_mask_tokens": args.encoder_mask_tokens,
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": 16,
    }

    for key, value in AUGMENTATIONS[args.augmentation].items():
        config.data.views.image[key] = value

    config.training.batch_size = 4096
    config.optimizer.lr = 1.5e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    config.evaluation.linear.epochs = 50.0 if size in ("L", "H") else 90.0
    config.evaluation.finetune.update(FINETUNE.get(size, {}))
    if args.target == "pixel":
        config.evaluation.finetune.update(FINETUNE_PIXEL.get(size, {}))
    return config
