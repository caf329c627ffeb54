"""CroCo and CroCo v2 at 224 pixels, on pairs of views of a scene, or on two crops of each photograph of ImageNet.

    configs/croco/imagenet1k.py:source=scenes:habitat_release/train           the first version: pairs NAME_1, NAME_2
    configs/croco/imagenet1k.py:version=2,source=scenes:pairs/train           the second: rotary positions, ViT-L, Base
    configs/croco/imagenet1k.py:version=2,variant=B/16,decoder=small,source=...
    configs/croco/imagenet1k.py                                               two crops of a photograph, see below

The authors' pairs are rendered rooms (Habitat) and, for the second version, crops of four collections of photographs;
they must be fetched from them. Without pairs the two views are independent crops of one photograph, which overlap but
show the scene from one place: the same task without its parallax. Evaluation is on labelled photographs.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

DECODERS = {"small": (512, 8, 16), "base": (768, 12, 12)}
# Both versions stop half way through their schedules: epochs, warm-up, images a batch.
RECIPES = {1: (400.0, 40.0, 256), 2: (125.0, 12.0, 512)}


def get_config(arg=None):
    args = arguments(
        arg,
        version=1,
        variant="",  # B/16; of the second version also L/16, its default
        decoder="",  # small or base; by default small with the first version
        epochs=0.0,  # by default the version's
        mask_ratio=0.9,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    if args.version not in RECIPES:
        raise ConfigError(f"argument version={args.version} is not one of 1 and 2")
    size = args.decoder or ("small" if args.version == 1 else "base")
    if size not in DECODERS:
        raise ConfigError(f"argument decoder={size} is not one of {', '.join(DECODERS)}")
    epochs, warmup, batch = RECIPES[args.version]
    config = recipes.pretrain()
    recipes.place(config, args)

    positions = {"positions": "none", "rope_base": 100.0} if args.version == 2 else {"positions": "sincos"}
    config.model = variant(args.variant or ("B/16" if args.version == 1 else "L/16"), cls_token=False, **positions)
    width, depth, heads = DECODERS[size]
    config.method = {
        "name": "croco",
        "mask_ratio": args.mask_ratio,
        "target": "norm_pix",
        "decoder_width": width,
        "decoder_depth": depth,
        "decoder_heads": heads,
        "norm_other": True,
    }

    pairs = args.source.startswith("scenes:")
    for name, crop in (("image", "random_upper"), ("image2", "random_lower")):
        view = recipes.view() | {"color_jitter": 0.4}  # brightness, contrast and saturation, each view by itself
        view |= {"crop": crop, "flip": 0.0} if pairs else {"scale": (0.4, 1.0), "flip": 0.0}
        config.data.views[name] = view

    config.training.epochs = args.epochs or epochs
    config.training.batch_size = batch
    config.training.precision = "bf16"
    config.optimizer.lr = 1.5e-4
    config.optimizer.schedule_stretch = 2.0  # the rate never falls to zero
    config.optimizer.warmup_epochs = warmup
    config.optimizer.weight_decay = 0.05
    return config
