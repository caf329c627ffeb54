"""MaskFeat on ImageNet-1K: every published row as an argument.

    configs/maskfeat/imagenet1k.py                          ViT-B/16, 1600 epochs, HOG
    configs/maskfeat/imagenet1k.py:variant=L/16,epochs=300  the ablations' length
    configs/maskfeat/imagenet1k.py:target=pixel,epochs=300  the target ablation
    configs/maskfeat/imagenet1k.py:gaussian_window=16       mmpretrain's HOG

The published numbers stand in results/maskfeat.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

FINETUNE = {
    "B": {"epochs": 100.0, "lr": 2e-3, "lr_batch": 512, "batch_size": 2048, "layer_decay": 0.65, "warmup_epochs": 20.0},
    "L": {"epochs": 50.0, "lr": 1e-3, "lr_batch": 256, "batch_size": 1024, "layer_decay": 0.75, "warmup_epochs": 5.0},
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=1600.0,
        target="hog",
        mask_ratio=0.4,
        gaussian_window=0,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    name = args.variant or "B/16"
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, positions="learned", init="maskfeat")
    config.method = {
        "name": "maskfeat",
        "mask_ratio": args.mask_ratio,
        "target": args.target,
        "hog_cell": 8,
        "hog_bins": 9,
        "gaussian_window": args.gaussian_window,
    }

    config.data.views.image.scale = (0.5, 1.0)

    config.training.batch_size = 2048
    config.optimizer.lr = 2e-4
    config.optimizer.lr_batch = 256
    config.optimizer.min_lr = 1e-6
    config.optimizer.warmup_lr = 1e-6
    config.optimizer.warmup_epochs = min(30.0, args.epochs)
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 0.02

    config.evaluation.finetune.update(FINETUNE.get(name.partition("/")[0], {}))
    config.evaluation.finetune.min_lr = 1e-6
    return config
