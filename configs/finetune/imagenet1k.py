"""Fine-tuning on ImageNet-1K by MAE's recipe, as a run of its own, or the same network from scratch.

    configs/finetune/imagenet1k.py:start=runs/mae                      ViT-B/16, 100 epochs
    configs/finetune/imagenet1k.py:start=runs/mae,variant=L/16,epochs=50,lr=1e-3,layer_decay=0.75,drop_path=0.2
    configs/finetune/imagenet1k.py                                     from random weights

`mim-jax eval RUN --finetune` builds such a config by itself from any run; this file is for those who want to train
with other data, other views or a head of their own. The recipe from scratch of the paper's appendix is another
(uncertain, from memory): lr=1e-4, weight_decay=0.3, b2=0.95, layer_decay=1, epochs=300, ema=0.9999, batch_size=4096.
"""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(
        arg,
        variant="B/16",
        start="",  # a run's folder
        classes=1000,
        epochs=100.0,
        warmup_epochs=5.0,
        batch_size=1024,
        lr=5e-4,
        b2=0.999,
        weight_decay=0.05,
        layer_decay=0.65,
        drop_path=0.1,
        ema=0.0,
        image_size=224,
        source="tfds:imagenet2012:train",
        eval_source="tfds:imagenet2012:validation",
        workers=0,  # decoding processes a host; 0: threads. A TPU host wants most of its cores
    )
    config = recipes.pretrain()
    recipes.place(config, args)

    side = (args.image_size, args.image_size)
    config.model = {"arch": "vit", **variant(args.variant, side, drop_path_rate=args.drop_path)}
    config.method = {
        "name": "finetune",
        "classes": args.classes,
        "pooling": "mean",
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mixup_probability": 1.0,
        "mixup_switch_probability": 0.5,
        "mixup_mode": "batch",
        "trainable_blocks": 0.0,
    }

    config.data.eval_resize = round(args.image_size * 256 / 224) if args.image_size <= 224 else args.image_size
    view = config.data.views.image
    view.update(size=side, scale=(0.08, 1.0), randaugment="rand-m9-mstd0.5-inc1", erase=0.25)

    config.training.start_from = args.start
    config.training.evaluate.update(loss_every_epochs=0.0, knn_every_epochs=0.0)
    config.optimizer.update(lr=args.lr, min_lr=1e-6, b2=args.b2, weight_decay=args.weight_decay, ema=args.ema)
    config.optimizer.update(layer_decay=args.layer_decay, warmup_epochs=args.warmup_epochs)
    return config
