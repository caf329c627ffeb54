"""A tokenizer for CIFAR-10 at 32 pixels: 8 x 8 tokens of stride 4, minutes on a CPU. What BEiT and CAE need first.

configs/tokenizer/cifar10.py:kind=dvae,vocabulary=256,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.recipes import tokenizers


def get_config(arg=None):
    args = arguments(
        arg,
        kind="vq",
        vocabulary=512,
        hidden=64,
        distance="plain",
        epochs=4.0,
        batch_size=64,
        lr=2e-3,
        precision="fp32",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = tokenizers.conv_tokenizer(args, 32, 4)
    config.method = tokenizers.reconstruction(args, codebook_decay=0.95)

    tokenizers.plain_pixels(config, 32)
    config.data.eval_resize = 32

    config.training.evaluate.loss_every_epochs = 1.0
    config.training.evaluate.knn_every_epochs = args.epochs
    config.training.evaluate.pictures_every_epochs = args.epochs
    config.optimizer.warmup_epochs = args.epochs / 50
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    return config
