"""MultiMAE on CIFAR-10 at 32 pixels, ViT-Ti/4 by default: pixels, edges, and colours of 2 x 2 pixels as labels.

configs/multimae/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="Ti/4",
        epochs=400.0,
        batch_size=512,
        lr=1e-4,
        decoder_width=96,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.on_cifar10(config, args)

    config.model = variant(args.variant, image_size=(32, 32), cls_token=False, positions="sincos_row", init="multimae")
    config.method = {
        "name": "multimae",
        "modalities": {
            "rgb": {"source": "image"},
            "edges": {"source": "edges", "loss": "l1"},
            "colours": {"source": "colours", "stride": 2, "classes": 27, "embedding": 16, "loss": "cross_entropy"},
        },
        "inputs": ("rgb", "edges", "colours"),
        "outputs": ("rgb", "edges", "colours", "norm_rgb"),
        "visible_tokens": 32,  # a sixth of 192, as in the paper
        "concentration": 1.0,
        "subsets": False,
        "global_tokens": 1,
        "decoder_width": args.decoder_width,
        "decoder_depth": 2,
        "decoder_heads": args.decoder_width // 32,
        "own_tokens": True,
        "uncertainty": False,
    }

    config.evaluation.finetune.pooling = "all"
    return config
