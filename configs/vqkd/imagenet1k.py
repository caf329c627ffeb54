"""VQ-KD, the tokenizer of BEiT v2, on ImageNet-1K, 100 epochs.

mim-jax import openai/clip-vit-base-patch16 runs/clip --from hf --method mae
configs/vqkd/imagenet1k.py:teacher=runs/clip    encoder B/16, decoder of 3 blocks, CLIP's features
configs/vqkd/imagenet1k.py:teacher=runs/clip,decoder_depth=1    decoder of 1 block
configs/vqkd/imagenet1k.py:teacher=runs/dino,clip=False,decoder_depth=1    DINO's
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

DINO = {"positions": "learned", "position_offset": 0.1, "layer_norm_eps": 1e-12}


def get_config(arg=None):
    args = arguments(
        arg,
        epochs=100.0,
        teacher="",
        clip=True,  # False: the teacher is DINO's B/16
        decoder_depth=3,
        vocabulary=8192,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = {
        "kind": "vqkd",
        "image_size": (224, 224),
        "channels": 3,
        "stride": 16,
        "vocabulary": args.vocabulary,
        "hidden": 768,
        "blocks": 12,
        "heads": 12,
        "code_width": 32,
        "distance": "cosine",
    }
    encoder = variant("B/16", **(recipes.clip(512) if args.clip else DINO))
    config.method = {
        "name": "vqkd",
        "decoder_width": 768,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": 12,
        "commitment": 1.0,
        "codebook_decay": 0.99,
        "start": "kmeans",
        "teacher": recipes.teacher(args.teacher, encoder, "clip" if args.clip else "imagenet"),
    }

    config.data.mean = (0.0, 0.0, 0.0)  # a tokenizer takes pixels in [0, 1], at evaluation too
    config.data.std = (1.0, 1.0, 1.0)
    config.data.views.image.scale = (0.08, 1.0)
    config.data.views.teacher = recipes.view() | {"scale": (0.08, 1.0), "same_as": "image", "normalize": False}

    config.training.batch_size = 512
    config.training.checkpoint.metric = "val_loss"
    config.optimizer.lr = 5e-5
    config.optimizer.lr_batch = 128
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 1e-4
    return config
