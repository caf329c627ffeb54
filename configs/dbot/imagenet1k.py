"""dBOT on ImageNet-1K, bootstrapped in two stages of 800 epochs.

    configs/dbot/imagenet1k.py                              ViT-B/16, the first stage alone: a random teacher
    configs/dbot/imagenet1k.py:teacher=runs/dbot1           a next stage, from the run of the one before
    configs/dbot/imagenet1k.py:stages=2                     both as one pipeline
    configs/dbot/imagenet1k.py:variant=L/16,stages=2        L/16; H/14 likewise

The published numbers stand in results/dbot.json. The first teacher of L and H is without blocks, as released.
"""

from ml_collections import ConfigDict

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant

DROP_PATH = {"B": 0.2, "L": 0.2, "H": 0.3}
FINETUNE = {
    "B": {"epochs": 100.0, "layer_decay": 0.65, "drop_path_rate": 0.1},
    "L": {"epochs": 50.0, "layer_decay": 0.75, "drop_path_rate": 0.25, "clip_norm": 1.0},
    "H": {"epochs": 50.0, "layer_decay": 0.75, "drop_path_rate": 0.3},
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16, L/16 or H/14
        epochs=800.0,  # of a stage
        stages=1,
        teacher="",  # run of the stage before; '': the student's own random start
        mask_ratio=0.75,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    if args.stages == 1:
        return stage(args, args.teacher)
    names = [f"stage{number + 1}" for number in range(args.stages)]
    before = [args.teacher, *(f"stage:{name}" for name in names)]
    return ConfigDict({"stages": {name: stage(args, teacher) for name, teacher in zip(names, before, strict=False)}})


def stage(args, teacher):
    name = args.variant or "B/16"
    size = name.partition("/")[0]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(name, drop_path_rate=DROP_PATH.get(size, 0.2))
    blocks = 0 if not teacher and size in ("L", "H") else -1
    config.method = {
        "name": "dbot",
        "mask_ratio": args.mask_ratio,
        "normalize_target": True,
        "beta": 2.0,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "teacher": recipes.teacher(teacher, variant(name), "imagenet", blocks=blocks, norm=False),
    }

    config.data.views.teacher = recipes.view() | {"same_as": "image", "normalize": False}

    config.training.batch_size = 4096
    config.optimizer.lr = 1.5e-4
    config.optimizer.lr_batch = 256
    config.optimizer.warmup_epochs = min(40.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 3.0 if size == "B" else 0.0

    config.evaluation.finetune.batch_size = 1024
    config.evaluation.finetune.lr = 3e-4
    config.evaluation.finetune.lr_batch = 256
    config.evaluation.finetune.update(FINETUNE.get(size, {}))
    return config
