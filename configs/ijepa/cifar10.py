"""I-JEPA on CIFAR-10 at 32 pixels, ViT-Ti/4 by default: an 8 x 8 grid.

configs/ijepa/cifar10.py:epochs=400,variant=S/4,source=parquet:data/cifar10/train-*.parquet,eval_source=...
configs/ijepa/cifar10.py:sigma=0.25                                    with stochastic positions (StoP)
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
        lr=1e-3,
        predictor_width=96,
        predictor_depth=4,
        sigma=0.0,
        precision="bf16",
        source="tfds:cifar10:train",
        eval_source="tfds:cifar10:test",
    )
    config = recipes.pretrain("cifar10")
    recipes.place(config, args)

    config.model = variant(args.variant, image_size=(32, 32), cls_token=False, init="ijepa")
    config.method = {
        "name": "ijepa",
        # The paper's shares of the grid: targets of 9 or 12 patches, contexts of 7 x 7 before the targets are cut out.
        "context_scale": (0.85, 1.0),
        "target_scale": (0.15, 0.2),
        "aspect_ratio": (0.75, 1.5),
        "context_blocks": 1,
        "target_blocks": 4,
        "min_keep": 8,  # the paper's 10 are more than the smallest target has here
        "allow_overlap": False,
        # Contexts are cut to the shortest of 32 images, about 14 patches; of 512 the shortest has hardly more than 8.
        "mask_group": 32,
        "context_length": 20,  # 40 can occur, but the shortest of 32 images was never above 20 in 4000 draws
        "predictor_width": args.predictor_width,
        "predictor_depth": args.predictor_depth,
        "predictor_heads": args.predictor_width // 32,
        "predictor_mlp_ratio": 4.0,
        "momentum": 0.996,
        "momentum_end": 1.0,
        "stochastic_positions": args.sigma,
        "stochastic_form": "code",
        "evaluate": "target",
    }

    config.data.views.image.scale = (0.3, 1.0)
    config.data.views.image.interpolation = "bilinear"
    config.data.views.image.flip = 0.0

    config.optimizer.lr_batch = 0
    config.optimizer.warmup_lr = args.lr / 5
    config.optimizer.min_lr = 1e-6
    config.optimizer.b2 = 0.999
    config.optimizer.warmup_epochs = min(40.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.04
    config.optimizer.weight_decay_end = 0.4
    config.optimizer.schedule_offset = 1

    config.evaluation.linear.batch_size = 4096
    config.evaluation.linear.feature = "pooled"
    config.evaluation.finetune.update(recipes.finetune_cifar10(precision=args.precision))
    return config
