"""A tokenizer for CIFAR-10 at 32 pixels: 8 x 8 tokens of stride 4, minutes on a CPU. What BEiT and CAE need first.

configs/tokenizer/cifar10.py:kind=dvae,vocabulary=256,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments


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

    config.model = {
        "kind": args.kind,
        "image_size": (32, 32),
        "channels": 3,
        "stride": 4,
        "vocabulary": args.vocabulary,
        "hidden": args.hidden,
        "blocks": 2,
        "code_width": 32,
        "distance": args.distance,
    }
    config.method = {
        "name": "tokenizer",
        "reconstruction": "l2",
        "commitment": 0.25,
        "codebook_decay": 0.95,
        "split_below": 0.2,
        "temperature": (1.0, 0.0625),
        "temperature_share": 0.9,
        "hard": False,
        "kl_weight": 0.02 if args.kind == "dvae" else 0.0,
        "kl_share": 0.1,
    }

    config.data.mean = (0.0, 0.0, 0.0)  # a tokenizer takes pixels in [0, 1], at evaluation too
    config.data.std = (1.0, 1.0, 1.0)
    config.data.eval_resize = 32
    config.data.views.image.size = (32, 32)

    config.training.checkpoint.metric = "val_loss"
    config.training.evaluate.loss_every_epochs = 1.0
    config.training.evaluate.knn_every_epochs = args.epochs
    config.training.evaluate.pictures_every_epochs = args.epochs
    config.optimizer.lr_batch = 0
    config.optimizer.b2 = 0.99
    config.optimizer.warmup_epochs = args.epochs / 50
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    return config
