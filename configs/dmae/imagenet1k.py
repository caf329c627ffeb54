"""DMAE on ImageNet-1K: every published row as an argument.

    mim-jax import LARGE.pth runs/mae-l --from original --config configs/mae/imagenet1k.py:variant=L/16
    configs/dmae/imagenet1k.py:teacher=runs/mae-l                    MAE L/16 to B/16, 100 epochs
    configs/dmae/imagenet1k.py:teacher=runs/mae-l,mask_ratio=0.95    nine patches visible

The published numbers stand in results/dmae.json, each with the argument that reproduces it. The teacher was pretrained
on pixels that are not standardised (the published mae_visualize_vit_large.pth).
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or S/16
        teacher="",  # run of an MAE
        teacher_variant="L/16",
        epochs=100.0,
        mask_ratio=0.75,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model, teacher = variant(args.variant or "B/16"), variant(args.teacher_variant)
    config.method = {
        "name": "dmae",
        "mask_ratio": args.mask_ratio,
        "target": "pixel",
        # Both see the same pixels, so mean and std are those of the data.
        "teacher": recipes.teacher(args.teacher, teacher, "imagenet"),
        "blocks": (config.model.depth * 3 // 4 - 1,),
        "teacher_blocks": (teacher["depth"] * 3 // 4 - 1,),
        "projection": "linear",
        "feature_loss": "l1",
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
    }

    config.training.batch_size = 4096
    config.optimizer.lr = 1.5e-4
    config.optimizer.warmup_epochs = min(20.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    # Defaults of the authors' script, which the recipe of B leaves as they are.
    config.evaluation.finetune.warmup_epochs = 20.0
    config.evaluation.finetune.lr = 5e-4
    config.evaluation.finetune.layer_decay = 0.75
    config.evaluation.finetune.drop_path_rate = 0.15
    return config
