"""ColorMAE on ImageNet-1K: every published row as an argument.

    configs/colormae/imagenet1k.py                          ViT-B/16, 1600 epochs, green noise
    configs/colormae/imagenet1k.py:epochs=300,colour=red    another filter
    configs/colormae/imagenet1k.py:noise=FILE,count=K,size=S    the authors' own bank of noise, K images S x S

The published numbers stand in results/colormae.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=1600.0,
        colour="green",  # red, blue, green or purple
        noise="",  # file of a bank; '': made from the colour
        count=3072,  # uncertain: the name of the authors' file says so
        size=64,  # uncertain
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant or "B/16", positions="sincos_row")
    noise = {"source": args.noise, "colour": args.colour, "sigmas": (), "count": args.count, "size": args.size}
    config.method = {
        "name": "colormae",
        "mask_ratio": 0.75,
        "target": "norm_pix",
        "noise": {**noise, "seed": 0},
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
    }

    config.training.batch_size = 4096
    config.optimizer.lr = 1.5e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.warmup_lr = 2.4e-7  # 1e-4 of the peak
    config.optimizer.weight_decay = 0.05

    config.evaluation.finetune.lr = 2e-3
    config.evaluation.finetune.lr_batch = 1024
    config.evaluation.finetune.layer_decay = 0.65
    config.evaluation.finetune.drop_path_rate = 0.1
    return config
