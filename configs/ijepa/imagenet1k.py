"""I-JEPA and its variant with stochastic positions (StoP) on ImageNet-1K: every published row as an argument.

    configs/ijepa/imagenet1k.py                                    ViT-B/16, 600 epochs
    configs/ijepa/imagenet1k.py:variant=H/14                       300 epochs, the released recipe
    configs/ijepa/imagenet1k.py:variant=H/16,image_size=448        300 epochs, the released recipe
    configs/ijepa/imagenet1k.py:variant=L/16,stochastic=True       StoP's released recipe

The published numbers stand in results/ijepa.json, each with the argument that reproduces it.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

PREDICTOR = {"B": (6, 12), "L": (12, 16), "H": (12, 16)}  # depth, heads (as many as the encoder's)
# Images of one device in the originals, which share block sizes and lengths, and a static length of the context that
# the shortest of so many images exceeds once in more than a million draws.
GROUPS = {  # by patches on a side: (images, context_length)
    14: (64, 80),  # uncertain for I-JEPA's B/16 and L/16, which have no released config; StoP's is 64
    16: (128, 104),
    28: (16, 400),
}
EPOCHS = {"B": 600.0, "L": 600.0, "H": 300.0}
SIGMA = {"B": 0.25, "L": 0.25, "H": 0.2}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="B/16",  # B/16, L/16, H/14 or H/16
        image_size=224,
        epochs=0.0,  # 0: as published
        stochastic=False,  # StoP
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,
    )
    size = args.variant.partition("/")[0]
    model = variant(args.variant, image_size=(args.image_size, args.image_size), cls_token=False, init="ijepa")
    side = args.image_size // model["patch_size"][0]
    if size not in PREDICTOR or side not in GROUPS:
        raise ConfigError(f"arguments variant={args.variant} and image_size={args.image_size} are no published row")
    (depth, heads), (group, length) = PREDICTOR[size], GROUPS[side]
    epochs = args.epochs or EPOCHS[size]
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = model
    config.method = {
        "name": "ijepa",
        "context_scale": (0.85, 1.0),
        "target_scale": (0.15, 0.2),
        "aspect_ratio": (0.75, 1.5),
        "context_blocks": 1,
        "target_blocks": 4,
        "min_keep": 10,
        "allow_overlap": False,
        "mask_group": group,
        "context_length": length,
        "predictor_width": 384,
        "predictor_depth": depth,
        "predictor_heads": heads,
        "predictor_mlp_ratio": 4.0,
        "momentum": 0.996,
        "momentum_end": 1.0,
        "stochastic_positions": SIGMA[size] if args.stochastic else 0.0,
        "stochastic_form": "code",
        "evaluate": "target",
    }

    config.data.eval_resize = args.image_size * 256 // 224
    view = config.data.views.image
    view.size = (args.image_size, args.image_size)
    view.scale = (0.3, 1.0)
    view.interpolation = "bilinear"
    view.flip = 0.0

    config.training.epochs = epochs
    config.training.batch_size = 2048
    config.optimizer.lr = 1e-3  # uncertain for B/16 and L/16 without stochastic positions
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_lr = 2e-4
    config.optimizer.min_lr = 1e-6
    config.optimizer.b2 = 0.999
    config.optimizer.warmup_epochs = min(40.0, epochs)
    config.optimizer.weight_decay = 0.04
    config.optimizer.weight_decay_end = 0.4
    config.optimizer.schedule_offset = 1
    if args.stochastic:
        view.flip = 0.5
        view.grayscale = 0.2
        view.blur = 0.5
        if size != "H":  # H/16 also holds its learning rate and weight decay after epoch 250, which is left out here
            config.optimizer.lr = 8e-4
            config.optimizer.min_lr = 1e-4
            config.optimizer.warmup_epochs = min(15.0, epochs)

    # uncertain: the authors probe with VISSL on averaged patches; its recipe is not in their repository
    config.evaluation.linear.feature = "pooled"
    return config
