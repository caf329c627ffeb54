"""MultiMAE on ImageNet-1K: pixels with the depth and the label maps that other networks predict for every image.

    configs/multimae/imagenet1k.py:depth=folder:DEPTH,labels=folder:LABELS    ViT-B/16, 1600 epochs: the published row
    configs/multimae/imagenet1k.py:epochs=400,depth=...,labels=...            and its shorter one
    configs/multimae/imagenet1k.py                      edges and coarse colours, made from the image, in their place
    configs/multimae/imagenet1k.py:modalities=luminance luminance in place of edges
    configs/multimae/imagenet1k.py:modalities=rgb       pixels alone, with the same decoders

DEPTH holds a PNG of 16 bits for each training image (Omnidata's prediction in the paper), LABELS one with numbers from
0 to 132 (Mask2Former's, of COCO), both under the image's name and of its size; eval_depth and eval_labels are those of
the held-out images, without which validation loss and pictures are left out. How the authors' nearest values are cut
depends on their version of Pillow: uncertain.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

COLOURS = {"source": "colours", "stride": 4, "classes": 133, "embedding": 64, "loss": "cross_entropy"}
SETS = {
    "maps": {
        "rgb": {"source": "image"},
        "depth": {"source": "given", "loss": "l1", "trim": 0.1},
        "labels": COLOURS | {"source": "given"},
    },
    "edges": {"rgb": {"source": "image"}, "edges": {"source": "edges", "loss": "l1"}, "colours": COLOURS},
    "luminance": {"rgb": {"source": "image"}, "luminance": {"source": "luminance", "loss": "l1"}, "colours": COLOURS},
    "rgb": {"rgb": {"source": "image"}},
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=1600.0,
        modalities="",  # maps | edges | luminance | rgb; '': maps where they are given, else edges
        depth="",  # data source of the training images' depth maps
        labels="",  # and of their label maps
        eval_depth="",
        eval_labels="",
        visible_tokens=98,
        concentration=1.0,
        uncertainty=False,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    chosen = args.modalities or ("maps" if args.depth or args.labels else "edges")
    if chosen not in SETS:
        raise ConfigError(f"argument modalities={args.modalities} is not one of {', '.join(SETS)}")
    if bool(args.depth) != bool(args.labels) or (args.depth and chosen != "maps"):
        raise ConfigError("arguments depth and labels name the data sources of modalities=maps; give both, or neither")
    names = tuple(SETS[chosen])
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant or "B/16", cls_token=False, positions="sincos_row", init="multimae")
    config.method = {
        "name": "multimae",
        "modalities": SETS[chosen],
        "inputs": names,
        "outputs": (*names, "norm_rgb"),
        "visible_tokens": args.visible_tokens,
        "concentration": args.concentration,
        "subsets": False,
        "global_tokens": 1,
        "decoder_width": 256,
        "decoder_depth": 2,
        "decoder_heads": 8,
        "own_tokens": True,
        "uncertainty": args.uncertainty,
    }

    if chosen == "maps":
        config.data.maps = {
            "depth": recipes.map_beside(args.depth, args.eval_depth),
            "labels": recipes.map_beside(args.labels, args.eval_labels, stride=4, classes=133),
        }
        if args.eval_source and not (args.eval_depth and args.eval_labels):
            config.training.evaluate.loss_every_epochs = config.training.evaluate.pictures_every_epochs = 0

    config.training.batch_size = 2048
    config.optimizer.lr = 1e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    # Fine-tuning from pixels alone: the head averages the global token too, and the authors erase nothing.
    config.evaluation.finetune.update(pooling="all", random_erasing=0.0)
    return config
