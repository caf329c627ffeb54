"""MaskAlign on ImageNet-1K, 200 epochs: every published row as an argument.

    mim-jax import openai/clip-vit-base-patch16 runs/clip --from hf --method mae
    configs/maskalign/imagenet1k.py:teacher=runs/clip                                  ViT-B/16 from CLIP B/16
    configs/maskalign/imagenet1k.py:variant=L/16,teacher=runs/clip                     L/16 from CLIP B/16 (fusion sum)
    configs/maskalign/imagenet1k.py:variant=L/16,teacher=runs/clip-l,teacher_variant=L/14   from CLIP L/14 at 196 px
    configs/maskalign/imagenet1k.py:teacher=runs/dino,clip=False                       from DINO B/16

CLIP L/14 sees the crop at 196 pixels, so that its grid is the student's. The published
numbers stand in results/maskalign.json.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

DINO = {"positions": "learned", "position_offset": 0.1, "layer_norm_eps": 1e-12}
DROP_PATH = {"B": 0.1, "L": 0.2}
FINETUNE = {"B": 0.55, "L": 0.75}  # layer decay; uncertain for L, of which the card says nothing: MAE's


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=200.0,
        teacher="",
        teacher_variant="B/16",  # B/16 or L/14
        clip=True,  # False: the teacher is DINO's encoder
        mask_ratio=0.7,
        masking="attention",
        target="whiten",
        layer_weights="top5",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    size = name.partition("/")[0]
    side = 196 if args.teacher_variant.endswith("/14") else 224
    switches = recipes.clip() if args.clip else DINO
    teacher = variant(args.teacher_variant, (side, side), **switches)
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, drop_path_rate=DROP_PATH.get(size, 0.1))
    config.method = {
        "name": "maskalign",
        "mask_ratio": args.mask_ratio,
        "masking": args.masking,
        "target": args.target,
        "fusion": "linear" if teacher["depth"] == config.model.depth else "sum",
        "head": "linear",
        "layer_weights": args.layer_weights,
        "error": "smooth_l1",
        "teacher": recipes.teacher(args.teacher, teacher, "clip" if args.clip else "imagenet"),
    }

    config.data.views.teacher = recipes.view((side, side)) | {"same_as": "image", "normalize": False}

    config.training.batch_size = 1024
    config.optimizer.lr = 1.5e-4
    config.optimizer.lr_batch = 256
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.05

    config.evaluation.finetune.epochs = 100.0
    config.evaluation.finetune.batch_size = 1024
    config.evaluation.finetune.lr = 3e-4
    config.evaluation.finetune.lr_batch = 256
    config.evaluation.finetune.min_lr = 1e-6
    config.evaluation.finetune.layer_decay = FINETUNE.get(size, 0.75)
    config.evaluation.finetune.drop_path_rate = 0.2
    return config
