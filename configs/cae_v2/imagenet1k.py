"""CAE v2 on ImageNet-1K, 300 epochs: the sizes Ti/16, S/16 and B/16 of the release.

    mim-jax import openai/clip-vit-base-patch16 runs/clip --from hf --method mae
    configs/cae_v2/imagenet1k.py:variant=B/16,teacher=runs/clip

The paper's teacher is CLIP ViT-B/16 with its projection to 512 values. Another teacher is any run whose encoder
`method.teacher.model` describes; `method.teacher.outputs` is then the size of a fixed random map after it, or 0.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

HEADS = {"Ti": 12, "S": 12}  # these sizes have more heads than elsewhere
HIDDEN = {"Ti": 30, "S": 49, "B": 98}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # Ti/16, S/16 or B/16
        epochs=300.0,
        teacher="",
        teacher_outputs=0,  # of a fixed random map, for a teacher without a projection; 0: none
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    name = args.variant or "B/16"
    size = name.partition("/")[0]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, positions="sincos_row", qkv_bias="qv", layer_scale=0.1, drop_path_rate=0.1, init="cae")
    config.model.heads = HEADS.get(size, config.model.heads)
    config.method = {
        "name": "cae_v2",
        "masking": "block",
        "num_mask_patches": HIDDEN.get(size, 98),
        "mask_ratio": 0.5,
        "min_block": 16,
        "regressor_depth": 4,
        "decoder_width": 768,
        "decoder_heads": 12,
        "decoder_layer_scale": 0.1,
        "feed_queries": True,
        "teacher": recipes.teacher(args.teacher, variant("B/16", **recipes.clip(512)), outputs=args.teacher_outputs),
    }

    view = {"scale": (0.4, 1.0), "color_jitter": 0.4, "jitter_first": True}
    config.data.views.image.update(view)
    config.data.views.teacher = recipes.view() | view | {"same_as": "image", "normalize": False}

    config.training.batch_size = 2048
    config.optimizer.lr = 1.5e-3
    config.optimizer.lr_batch = 0
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 30)
    config.optimizer.warmup_inclusive = True
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    config.evaluation.linear.augment = True
    config.evaluation.attentive.augment = True
    config.evaluation.finetune.batch_size = 1024
    config.evaluation.finetune.lr = 2e-4
    config.evaluation.finetune.lr_batch = 0
    config.evaluation.finetune.relative_bias = "per_block"  # uncertain: as CAE
    config.evaluation.finetune.min_lr = 1e-6
    config.evaluation.finetune.layer_decay = 0.75
    return config
