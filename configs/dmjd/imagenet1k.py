"""DMJD on ImageNet-1K with the encoder of ConvMAE: every published row of it as an argument.

    configs/dmjd/imagenet1k.py                       base, 400 epochs: 800 effective ones, of two views each
    configs/dmjd/imagenet1k.py:variant=L             large, 400 epochs
    configs/dmjd/imagenet1k.py:visible_order=aligned the visible branch on targets of its own patches

The published numbers stand in results/dmjd.json.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B or L
        epochs=400.0,
        masking="block",
        mask_ratio=0.6,
        visible_order="raster",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B"
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, stem_mlp_ratio=(8.0, 8.0))
    config.method = {
        "name": "dmjd",
        "mask_ratio": args.mask_ratio,
        "masking": args.masking,
        "prediction_ratio": 1.0,
        "target": "hog",
        "hog_cell": 8,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "decoder_mlp_ratio": 8.0,
        "visible_weight": 1.0,
        "visible_order": args.visible_order,
    }

    config.data.views.image.scale = (0.5, 1.0)
    config.data.views.raw = recipes.view() | {"same_as": "image", "normalize": False}

    config.training.batch_size = 512  # images; twice as many views
    # The rate grows with how many patches are predicted per hidden one: 2e-3 at 512 images.
    config.optimizer.lr = 6e-4 / args.mask_ratio
    config.optimizer.warmup_epochs = min(20.0, args.epochs)
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0 if name == "L" else 0.0

    recipes.judged_conv_vit(config, name)
    return config
