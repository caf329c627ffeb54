"""dBOT from CLIP on ImageNet-1K (branch beit of the release), 1600 epochs.

mim-jax import openai/clip-vit-base-patch16 runs/clip --from hf --method mae
configs/dbot_beit/imagenet1k.py:teacher=runs/clip                                                  ViT-B/16
configs/dbot_beit/imagenet1k.py:variant=L/16,teacher=runs/clip-l,teacher_variant=L/14              L/16 from CLIP-L
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

PROJECTION = {"B": 512, "L": 768}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16, L/16 or H/14
        epochs=1600.0,
        teacher="",
        teacher_variant="B/16",  # B/16 or L/14
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    name = args.variant or "B/16"
    config = recipes.pretrain()
    recipes.place(config, args)

    beit = {"positions": "none", "qkv_bias": "qv", "relative_bias": "shared", "layer_scale": 0.1, "init": "beit"}
    config.model = variant(name, drop_path_rate=0.1, **beit)
    # CLIP L/14 sees 196 pixels, so that its grid is that of a student with patches of 16.
    side = 196 if args.teacher_variant.endswith("/14") and name.endswith("/16") else 224
    clip = recipes.clip(PROJECTION[args.teacher_variant.partition("/")[0]])
    config.method = {
        "name": "dbot_beit",
        "num_mask_patches": 78 if config.model.patch_size[0] == 16 else 102,  # uncertain for 14: 40 %, as for 16
        "min_block": 16,
        "predict_cls": False,
        "teacher": recipes.teacher(args.teacher, variant(args.teacher_variant, (side, side), **clip)),
    }

    view = {"scale": (0.4, 1.0), "color_jitter": 0.4, "jitter_first": True}
    config.data.views.image.update(view)
    config.data.views.teacher = recipes.view((side, side)) | view | {"same_as": "image", "normalize": False}

    config.training.batch_size = 4096
    config.optimizer.lr = 3e-3
    config.optimizer.lr_batch = 0
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.warmup_inclusive = True
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    config.evaluation.finetune.batch_size = 1024  # uncertain: inferred from the script
    config.evaluation.finetune.lr = 1e-3
    config.evaluation.finetune.lr_batch = 0
    config.evaluation.finetune.warmup_epochs = 20.0
    config.evaluation.finetune.layer_decay = 0.65
    config.evaluation.finetune.drop_path_rate = 0.1
    config.evaluation.finetune.relative_bias = "per_block"
    return config
