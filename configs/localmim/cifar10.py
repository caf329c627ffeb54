"""LocalMIM on CIFAR-10 at 32 pixels, ViT-Ti/4 by default: cells of 1, 2, 4 and 8 pixels.

configs/localmim/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...

The Swin variants are cut to three stages on patches of 2 pixels, as in configs/simmim/cifar10.py: cells of 8 pixels are
hidden, and cells of 4, 8 and 8 pixels predicted.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.swin_config import swin_variant
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",  # a vision transformer such as Ti/4, or swin-T
        epochs=400.0,
        batch_size=512,
        lr=2e-4,
        decoder_width=128,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")

    swin = args.variant.startswith("swin-")
    if swin:
        config.model = swin_variant("swin", args.variant.removeprefix("swin-"), (32, 32), window_size=4)
        stages = {key: config.model[key][:3] for key in ("depths", "heads")}
        config.model.update(patch_size=(2, 2), layer_norm_eps=1e-6, **stages)
    else:
        config.model = variant(args.variant, image_size=(32, 32))
    config.method = {
        "name": "localmim",
        "mask_ratio": 0.75,
        "target": "hog",
        **({"mask_group": 0, "places": "listed"} if swin else {"taps": ()}),
        "hog_bins": 9,
        "hog_bias": False,
        "decoder_width": args.decoder_width,
        "decoder_depth": 1,
        "decoder_heads": args.decoder_width // 32,
    }

    recipes.on_cifar10(config, args)

    config.optimizer.min_lr = 1e-6
    if swin:
        config.evaluation.linear.feature = "pooled"
    return config
