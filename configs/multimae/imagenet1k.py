"""MultiMAE on ImageNet-1K, with further modalities made from the photographs: edges and a coarse label map of colours.

    configs/multimae/imagenet1k.py                      ViT-B/16, 1600 epochs
    configs/multimae/imagenet1k.py:epochs=400
    configs/multimae/imagenet1k.py:modalities=luminance luminance in place of edges
    configs/multimae/imagenet1k.py:modalities=rgb       pixels alone, with the same decoders

The paper's depth (Omnidata) and semantic maps (Mask2Former) are the predictions of other networks for every image of
ImageNet. No data source here brings them beside the images, so the published rows are not reproduced by this file: its
modalities have the paper's shapes (one channel, and 133 labels at a stride of 4), not its content. Arrays that a caller
brings are taken where a modality's source is 'given'.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.errors import ConfigError
from mim_jax.models.vit_config import variant

COLOURS = {"source": "colours", "stride": 4, "classes": 133, "embedding": 64, "loss": "cross_entropy"}
SETS = {
    "edges": {"rgb": {"source": "image"}, "edges": {"source": "edges", "loss": "l1"}, "colours": COLOURS},
    "luminance": {"rgb": {"source": "image"}, "luminance": {"source": "luminance", "loss": "l1"}, "colours": COLOURS},
    "rgb": {"rgb": {"source": "image"}},
}


def get_config(arg=None):
    args = arguments(
        arg,
        variant="",  # B/16 or L/16
        epochs=1600.0,
        modalities="edges",
        visible_tokens=98,
        concentration=1.0,
        uncertainty=False,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    if args.modalities not in SETS:
        raise ConfigError(f"argument modalities={args.modalities} is not one of {', '.join(SETS)}")
    names = tuple(SETS[args.modalities])
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant(args.variant or "B/16", cls_token=False, positions="sincos_row", init="multimae")
    config.method = {
        "name": "multimae",
        "modalities": SETS[args.modalities],
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

    config.training.batch_size = 2048
    config.optimizer.lr = 1e-4
    config.optimizer.warmup_epochs = min(40.0, args.epochs)
    config.optimizer.weight_decay = 0.05

    # Fine-tuning from pixels alone: the head averages the global token too, and the authors erase nothing.
    config.evaluation.finetune.update(pooling="all", random_erasing=0.0)
    return config
