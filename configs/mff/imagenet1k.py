"""MFF on ImageNet-1K: every published row as an argument.

    configs/mff/imagenet1k.py               ViT-B/16, 800 epochs
    configs/mff/imagenet1k.py:epochs=300    the shorter run

The published numbers stand in results/mff.json, each with the argument that reproduces it. Taps of other sizes than B
are uncertain: the same six shares of the depth, an argument away (taps=0;4;8;12;16;23).
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16, and uncertain S/16 or L/16
        epochs=800.0,
        taps="",  # block numbers from 0, separated by ';'; '': 0, 2, 4, 6, 8, 11 of 12
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant or "B/16", positions="sincos_row")
    depth = config.model.depth
    taps = [int(tap) for tap in args.taps.split(";") if tap] or [depth * i // 6 for i in range(5)] + [depth - 1]
    config.method = {
        "name": "mff",
        "mask_ratio": 0.75,
        "target": "norm_pix",
        "taps": tuple(taps),
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "decoder_mlp_ratio": 4.0,
    }

    # The shorter side to 224, a crop of what is then padded by 4 mirrored pixels: more of the object than MAE's crop.
    config.data.views.image.crop = "random_reflect"
    config.data.views.image.interpolation = "bilinear"

    config.training.batch_size = 4096
    config.optimizer.lr = 1.5e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.warmup_lr = 2.4e-7  # 1e-4 of the peak
    config.optimizer.weight_decay = 0.05

    config.evaluation.finetune.lr = 2e-3
    config.evaluation.finetune.lr_batch = 1024
    config.evaluation.finetune.layer_decay = 0.65
    config.evaluation.finetune.drop_path_rate = 0.1
    config.evaluation.finetune.min_lr = 1e-6
    return config
