"""A tokenizer for ImageNet-1k at 112 pixels: 14 x 14 tokens of stride 8, the grid of a ViT with patch 16 at 224 pixels.

configs/tokenizer/imagenet1k.py:kind=dvae,vocabulary=8192,source=tfds:imagenet2012:train

No row of a paper is reproduced: BEiT and CAE used DALL-E's published tokenizer (docs/gallery/tokenizer.md).
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.recipes import tokenizers


def get_config(arg=None):
    args = arguments(
        arg,
        kind="vq",
        vocabulary=8192,
        hidden=256,
        distance="plain",
        image_size=112,
        stride=8,
        epochs=20.0,
        batch_size=1024,
        lr=5e-4,
        precision="bf16",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = tokenizers.conv_tokenizer(args, args.image_size, args.stride)
    config.method = tokenizers.reconstruction(args, codebook_decay=0.99)

    tokenizers.plain_pixels(config, args.image_size)
    config.data.eval_resize = args.image_size * 8 // 7
    config.data.views.image.interpolation = "lanczos"

    config.training.evaluate.loss_every_epochs = 1.0
    config.training.evaluate.knn_every_epochs = args.epochs
    config.training.evaluate.pictures_every_epochs = args.epochs / 4
    config.optimizer.warmup_epochs = args.epochs / 20
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    return config
