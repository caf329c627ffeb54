"""A small MAE on the embedded handwritten digits: minutes on a laptop, nothing to download."""

from mim_jax import recipes
from mim_jax.config import arguments
from mim_jax.models.vit_config import variant


def get_config(arg=None):
    args = arguments(arg, epochs=25.0, batch_size=64)
    config = recipes.pretrain()
    recipes.place(config, args)

    config.model = variant("Ti/4", image_size=(32, 32), channels=1)
    config.model.update(width=96, depth=4, heads=4)
    config.method = {
        "name": "mae",
        "mask_ratio": 0.75,
        "masking": "random",
        "target": "norm_pix",
        "pca_components": 16,
        "encoder_mask_tokens": False,
        "decoder_width": 64,
        "decoder_depth": 2,
        "decoder_heads": 4,
    }

    config.data.source = "digits:train"
    config.data.eval_source = "digits:test"
    config.data.channels = 1
    config.data.mean = (0.3,)
    config.data.std = (0.35,)
    config.data.eval_resize = 32
    config.data.views.image.size = (32, 32)
    config.data.views.image.scale = (0.5, 1.0)
    config.data.views.image.flip = 0.0  # a mirrored digit is another digit, or none

    config.training.precision = "fp32"
    config.training.log_every = 10
    config.optimizer.lr = 2e-3
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_epochs = min(5.0, args.epochs / 5)
    config.training.evaluate.knn_every_epochs = 5.0

    # The recipe's batch of 16384 would be one step an epoch here.
    config.evaluation.linear.batch_size = 256
    config.evaluation.linear.lr = 6.4
    config.evaluation.linear.lr_batch = 0
    config.evaluation.finetune.update(
        recipes.finetune_cifar10(
            epochs=20.0, warmup_epochs=2.0, batch_size=64, scale=(0.5, 1.0), flip=0.0, randaugment="", precision="fp32"
        )
    )
    return config
