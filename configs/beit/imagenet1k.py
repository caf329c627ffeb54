"""BEiT on ImageNet: every published row as an argument.

    configs/beit/imagenet1k.py                                  ViT-B/16, ImageNet-1K, 800 epochs
    configs/beit/imagenet1k.py:data=22k,variant=L/16            ImageNet-22K, 150 epochs
    configs/beit/imagenet1k.py:data=22k,labels=22k              and then its labels, before fine-tuning
    configs/beit/imagenet1k.py:epochs=300,masking=uniform       the ablations; results/beit.json says what has no config

The tokenizer is DALL-E's: give `tokenizer` the file or folder with its published weights (docs/gallery/tokenizer.md).
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

DATA = {
    "1k": {"source": "tfds:imagenet2012:train", "epochs": 800.0, "warmup_epochs": 10.0},
    # uncertain: 10,000 warm-up steps of 2048 images, about 1.44 epochs of the 14.2 million images
    "22k": {"source": "folder:imagenet22k", "epochs": 150.0, "warmup_epochs": 10_000 * 2048 / 14_197_122},
}
FINETUNE = {  # from self-supervised weights on ImageNet-22K; the released scripts of B are those of ImageNet-1K too
    "B": {"batch_size": 1024, "lr": 4e-3, "epochs": 100.0, "warmup_epochs": 20.0, "drop_path_rate": 0.1},
    "L": {"batch_size": 1024, "lr": 1e-3, "epochs": 50.0, "warmup_epochs": 5.0, "drop_path_rate": 0.2},
}
LAYER_DECAY = {"B": 0.65, "L": 0.75}
AFTER_LABELS = {  # fine-tuning of a model that has seen the labels of ImageNet-22K
    "batch_size": 512,
    "lr": 2e-5,
    "epochs": 30.0,
    "warmup_epochs": 5.0,
    "weight_decay": 1e-8,
    "drop_path_rate": 0.1,
    "layer_decay": 0.85,  # uncertain for L
    "mixup": 0.0,
    "cutmix": 0.0,
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        data="1k",  # 1k | 22k
        epochs=0.0,  # 0: 800 on ImageNet-1K, 150 on 22K
        tokenizer="",  # DALL-E's encoder weights
        labels="",  # 22k: fine-tuning after intermediate fine-tuning on the labels of ImageNet-22K
        masking="block",  # block | uniform
        recover_all=False,  # predict the visible patches' tokens too
        positions="relative",  # relative (released models) | learned (first version of the paper)
        source="",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    name = args.variant or "B/16"
    size = name.partition("/")[0]
    if args.data not in DATA:
        raise ConfigError(f"argument data={args.data} is not one of {', '.join(DATA)}")
    if args.positions not in ("relative", "learned"):
        raise ConfigError(f"argument positions={args.positions} is not one of relative, learned")
    relative, data = args.positions == "relative", DATA[args.data]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(
        name,
        positions="none" if relative else "learned",
        relative_bias="shared" if relative else "none",
        qkv_bias="qv",
        layer_scale={"B": 0.1, "L": 1e-5}.get(size, 0.1) if relative else 0.0,
        drop_path_rate=0.1,
        init="beit",
    )
    config.method = {
        "name": "beit",
        "num_mask_patches": 75,
        "min_block": 16,
        "masking": args.masking,
        "recover_all": args.recover_all,
        "tokenizer": recipes.dalle(args.tokenizer),
    }

    config.data.source = args.source or data["source"]
    if args.data == "22k":
        config.data.mean = config.data.std = (0.5, 0.5, 0.5)
    view = {"scale": (0.08, 1.0), "color_jitter": 0.4, "jitter_first": True}
    config.data.views.image.update(view)
    tokens = {"same_as": "image", "interpolation": "lanczos", "normalize": False}
    config.data.views.tokens = recipes.view((112, 112)) | view | tokens

    config.training.epochs = args.epochs or data["epochs"]
    config.training.batch_size = 2048
    recipes.beit_optimizer(config)
    config.optimizer.lr = 1.5e-3
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_epochs = min(data["warmup_epochs"], config.training.epochs)
    config.optimizer.warmup_inclusive = True

    config.evaluation.finetune.update(FINETUNE.get(size, {}) | {"layer_decay": LAYER_DECAY.get(size, 0.65)})
    if args.labels == "22k":
        config.evaluation.finetune.update(AFTER_LABELS)
    config.evaluation.finetune.lr_batch = 0
    config.evaluation.finetune.min_lr = 1e-6
    return config
