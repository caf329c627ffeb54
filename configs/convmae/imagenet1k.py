"""ConvMAE on ImageNet-1K: the base model, and the lengths of its published rows as an argument.

    configs/convmae/imagenet1k.py              base, 1600 epochs
    configs/convmae/imagenet1k.py:epochs=800

The published numbers stand in results/convmae.json.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.conv_vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B, or L with the sizes of DMJD's code; the paper's other sizes are not in the authors' code
        epochs=1600.0,
        target="norm_pix",
        mask_ratio=0.75,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B"
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name)
    config.method = {
        "name": "convmae",
        "mask_ratio": args.mask_ratio,
        "target": args.target,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "decoder_mlp_ratio": 4.0,
    }

    config.training.batch_size = 3072
    config.optimizer.lr = 1.5e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    recipes.judged_conv_vit(config, name)
    return config
