"""EVA-02 and EVA-01 pretraining on ImageNet-21K or any source (default: ImageNet-1K).

    configs/eva02/imagenet1k.py:teacher=runs/eva-clip                            EVA-02 B/14 from EVA-CLIP g/14
    configs/eva02/imagenet1k.py:size=L,teacher=runs/eva-clip                     L; Ti and S likewise
    configs/eva02/imagenet1k.py:size=g,teacher=runs/clip-l                       EVA-01 g from OpenAI's CLIP L/14

The published models learned from ImageNet-21K (Ti, S 240 epochs, B, L 150) or larger merged sets, which `source` takes.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import SIZES, variant

GIANT = {"width": 1408, "depth": 40, "heads": 16, "mlp_ratio": 6144 / 1408}
# batch, learning rate, drop path, epochs of warm-up
RECIPE = {
    "Ti": (4000, 3e-3, 0.0, 1.0),
    "S": (4000, 3e-3, 0.0, 1.0),
    "B": (2048, 1.5e-3, 0.0, 1.0),
    "L": (2048, 1.5e-3, 0.1, 1.0),
    "g": (4096, 1e-3, 0.1, 2.0),
}
FINETUNE = {
    "Ti": {"lr": 2e-4, "layer_decay": 0.9, "epochs": 100.0, "warmup_epochs": 5.0, "image_size": (336, 336)},
    "S": {"lr": 1e-4, "layer_decay": 0.8, "epochs": 100.0, "warmup_epochs": 5.0, "image_size": (336, 336)},
    "B": {"lr": 1e-4, "layer_decay": 0.7, "epochs": 30.0, "warmup_epochs": 3.0, "image_size": (448, 448)},
    "L": {
        "lr": 5e-5,
        "layer_decay": 0.8,
        "epochs": 30.0,
        "warmup_epochs": 3.0,
        "drop_path_rate": 0.15,
        "label_smoothing": 0.2,
        "image_size": (448, 448),
    },
}


def get_config(arg=None):
    args = arguments(
        arg,
        size="B",  # Ti, S, B or L of EVA-02; g of EVA-01
        epochs=150.0,
        teacher="",
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    size = args.size
    batch, lr, drop_path, warmup = RECIPE[size]
    config = recipes.pretrain()
    recipes.place(config, args)

    shared = {"positions": "learned", "qkv_bias": "qv", "drop_path_rate": drop_path}
    if size == "g":
        config.model = variant("L/14", **shared, init="eva01") | GIANT
        teacher = variant("L/14", **recipes.clip(768))
    else:
        block = {"mlp": "swiglu_exact", "mlp_ratio": 8 / 3, "mlp_norm": SIZES[size][0] >= 768}
        places = {"rope": 16, "patch_gradient": 0.1, "init": "eva02"}
        config.model = variant(f"{size}/14", **shared, **block, **places)
        teacher = variant("L/14", positions="learned", qkv_bias="qv", projection=1024) | GIANT
    config.method = {
        "name": "eva02",
        "num_mask_patches": 105,
        "min_block": 16,
        "predict_cls": False,
        "teacher": recipes.teacher(args.teacher, teacher),
    }

    config.data.mean = recipes.teacher("", {})["mean"]  # CLIP's, for student and teacher
    config.data.std = recipes.teacher("", {})["std"]
    config.data.views.teacher = recipes.view() | {"same_as": "image", "normalize": False}

    config.training.batch_size = batch
    config.optimizer.lr = lr
    config.optimizer.lr_batch = 0
    config.optimizer.min_lr = 1e-5
    config.optimizer.warmup_epochs = warmup
    config.optimizer.warmup_inclusive = True
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0

    tune = config.evaluation.finetune
    tune.batch_size = 1024
    tune.lr_batch = 0
    tune.drop_path_rate = 0.1
    tune.mixup = tune.cutmix = tune.random_erasing = 0.0
    tune.crop_pct = 1.0
    tune.update(FINETUNE.get(size, {}))
    return config
