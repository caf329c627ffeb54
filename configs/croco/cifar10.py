"""CroCo on CIFAR-10 at 32 pixels, ViT-Ti/4 by default: the views are two crops of one picture.

configs/croco/cifar10.py:version=2                  rotary positions
configs/croco/cifar10.py:epochs=400,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        version=1,
        epochs=400.0,
        batch_size=512,
        lr=1.5e-4,
        mask_ratio=0.9,
        decoder_width=192,
        decoder_depth=4,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    positions = {"positions": "none", "rope_base": 100.0} if args.version == 2 else {"positions": "sincos"}
    config.model = variant(args.variant, image_size=(32, 32), cls_token=False, **positions)
    config.method = {
        "name": "croco",
        "mask_ratio": args.mask_ratio,
        "target": "norm_pix",
        "decoder_width": args.decoder_width,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_width // 32,
        "norm_other": True,
    }

    for name in ("image", "image2"):
        config.data.views[name] = recipes.view((32, 32)) | {"scale": (0.4, 1.0), "flip": 0.0, "color_jitter": 0.4}

    config.optimizer.lr_batch = 256
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.05

    config.evaluation.linear.batch_size = 4096
    return config
