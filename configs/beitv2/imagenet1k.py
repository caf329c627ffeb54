"""BEiT v2 on ImageNet-1K, with a tokenizer trained by configs/vqkd/imagenet1k.py.

configs/beitv2/imagenet1k.py:tokenizer=runs/vqkd    ViT-B/16, 1600 epochs
configs/beitv2/imagenet1k.py:tokenizer=runs/vqkd,epochs=300    300 epochs: beta2 0.98, no drop path
configs/beitv2/imagenet1k.py:tokenizer=runs/vqkd,variant=L/16    ViT-L/16
configs/beitv2/imagenet1k.py:tokenizer=runs/vqkd,epochs=300,head_layers=0    without the second head
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

EARLY = {"B": 9, "L": 21}
SCALE = {"B": 0.1, "L": 1e-5}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=1600.0,
        tokenizer="",
        head_layers=2,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    name, long = args.variant or "B/16", args.epochs > 300
    size = name.partition("/")[0]
    config = recipes.pretrain()
    recipes.place(config, args)

    beit = {"positions": "none", "qkv_bias": "qv", "relative_bias": "shared", "init": "beit"}
    scale, drop_path = SCALE.get(size, 0.1), 0.1 if long else 0.0
    config.model = variant(name, layer_scale=scale, drop_path_rate=drop_path, **beit)
    config.method = {
        "name": "beitv2",
        "num_mask_patches": 75,
        "min_block": 16,
        "masking": "block",
        "recover_all": False,
        "early_layers": EARLY.get(size, config.model.depth * 3 // 4),
        "head_layers": args.head_layers,
        "shared_head": True,
        "tokenizer": {
            "kind": "vqkd",
            "source": args.tokenizer,
            "image_size": (224, 224),
            "channels": 3,
            "stride": 16,
            "vocabulary": 8192,
            "hidden": 768,
            "blocks": 12,
            "heads": 12,
            "code_width": 32,
            "distance": "cosine",
        },
    }

    view = {"scale": (0.2, 1.0), "color_jitter": 0.4, "jitter_first": True}
    config.data.views.image.update(view)
    config.data.views.tokens = recipes.view() | view | {"same_as": "image", "normalize": False}

    config.training.batch_size = 2048
    config.optimizer.lr = 1.5e-3
    config.optimizer.lr_batch = 0
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 30)
    config.optimizer.warmup_inclusive = True
    config.optimizer.b2 = 0.999 if long else 0.98
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    tune = config.evaluation.finetune
    tune.batch_size = 1024
    tune.lr_batch = 0
    tune.relative_bias = "per_block"
    tune.lr = 2e-4 if size == "L" and long else 5e-4
    tune.epochs, tune.warmup_epochs = (50.0, 5.0) if size == "L" else (100.0, 20.0)
    tune.drop_path_rate = 0.2 if size == "L" or long else 0.1
    tune.layer_decay = 0.8 if size == "L" else 0.6 if long else 0.65
    return config
