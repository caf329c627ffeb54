"""The one shared recipe: every setting of a run with its default, to be changed by a config file.

A config file calls `pretrain()`, sets what its row of the paper sets, and returns the result; so a run's values are
in two places at most. Sections `model` and `method` belong to the method and are written out in the config file.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from mim_jax.recipes import evaluation
from mim_jax.recipes.beit_family import beit_encoder, beit_on_cifar10, beit_optimizer
from mim_jax.recipes.cifar10 import on_cifar10
from mim_jax.recipes.conv_vit import judged_conv_vit
from mim_jax.recipes.evaluation import finetune_cifar10
from mim_jax.recipes.place import place
from mim_jax.recipes.teachers import STATISTICS, clip, teacher
from mim_jax.recipes.tokenizers import dalle, own_tokenizer

__all__ = [
    "adamw",
    "beit_encoder",
    "beit_on_cifar10",
    "beit_optimizer",
    "clip",
    "dalle",
    "data",
    "finetune_cifar10",
    "judged_conv_vit",
    "map_beside",
    "on_cifar10",
    "own_tokenizer",
    "place",
    "pretrain",
    "teacher",
    "training",
    "view",
]

IMAGENET_MEAN, IMAGENET_STD = STATISTICS["imagenet"]


CIFAR10 = {
    "mean": STATISTICS["cifar10"][0],
    "std": STATISTICS["cifar10"][1],
    "eval_resize": 32,
}


def pretrain(data_set: str = "imagenet") -> ConfigDict:
    """A locked config with every key of a pretraining run; `model` and `method` are open for the file to fill.

    data_set: imagenet | cifar10: whose statistics and image size the `data` section starts from.
    """
    config = ConfigDict(
        {
            "seed": 0,
            "model": {},
            "method": {},
            "data": data(),
            "optimizer": adamw(),
            "training": training(),
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            # (regular expression on the parameter path, one mesh axis name or '' per dimension); first match wins,
            # what matches nothing has its largest divisible dimension split over fsdp.
            "sharding": (),
            "evaluation": evaluation.sections(),
        }
    )
    config.lock()
    config.model.unlock()
    config.method.unlock()
    if data_set == "cifar10":
        config.data.update(CIFAR10)
        config.data.views.image.size = (32, 32)
    config.data.maps.unlock()
    config.data.views.unlock()  # a method's further views are added by name; the check knows every key
    return config


def data() -> dict:
    return {
        # digits | tfds:NAME[:split] | folder:DIR | parquet:GLOB | wds:GLOB | arrayrecord:GLOB | npy:FILE | hf:NAME |
        # scenes:DIR (pairs of views)
        "source": "digits",
        "eval_source": "",  # held-out images for probes and validation; '' uses a fixed tenth of `source`
        "fraction": 1.0,  # share of the training records that a run sees; always the same ones, nested
        "balanced": False,  # the share is one of every class alike (label subsets of 1 % and 10 %)
        "per_class": 0,  # so many training records of every class instead (1, 5, 10); 0: no such limit
        "subset_seed": 0,  # which ones, of both
        "views": {"image": view()},
        "maps": {},  # beside the images, by the names that the method knows: `map_beside`
        "channels": 3,  # 1 turns colour to grey, 3 turns grey to colour, N-channel arrays must have N
        "mean": IMAGENET_MEAN,  # per channel, of pixels in [0, 1]
        "std": IMAGENET_STD,
        "eval_resize": 256,  # shorter side before the centre crop, at evaluation
        "workers": 0,  # worker processes; 0 decodes in the main process's threads
        "threads": 16,  # decoding threads
        "prefetch": 2,  # batches held ready
        # exact (Pillow) | fast (JPEG no further down than the crop, resized with vector instructions: two levels of 255
        # at most from exact; needs mim_jax[fast])
        "decode": "exact",
        "cache": "auto",  # decoded pixels: none | auto (memory, where they take less than 1 GiB) | memory | disk
        "cache_dir": "",  # folder of the disk cache
        "crop_on": "host",  # host | device (images of one size: the step crops, resizes and flips)
        "on_error": "stop",  # stop | skip
        "max_bad_fraction": 0.01,  # with skip: stop all the same above this share of records
        "max_pixels": 100_000_000,  # larger images are refused as bad records
    }


def map_beside(source: str = "", eval_source: str = "", stride: int = 1, classes: int = 0) -> dict:
    """One map beside the images, such as depth: each belongs to the record of its name, and is cut as `image` is."""
    return {
        "source": source,  # data source of the maps of `data.source`
        "eval_source": eval_source,  # and of `data.eval_source`
        "stride": stride,  # one value in so many, each way: the middle one
        "classes": classes,  # of labels; 0: values
    }


def view(size: tuple[int, int] = (224, 224)) -> dict:
    """One training view: random resized crop and flip."""
    return {
        "size": size,  # (height, width)
        # random_resized | random_resized_clipped (no retries) | random (pad by 1/8, then crop) | random_reflect (the
        # same with 4 mirrored pixels on every side: DeiT III's simple crop) | random_upper, random_lower (of the views
        # of a source `scenes:`, without padding) | center (resize, crop) | whole (resize alone, whatever the shape)
        "crop": "random_resized",
        "scale": (0.2, 1.0),  # share of the image's area
        "ratio": (3 / 4, 4 / 3),  # width / height
        "interpolation": "bicubic",  # bicubic | bilinear | lanczos | nearest
        "flip": 0.5,  # probability of a horizontal flip
        "color_jitter": 0.0,  # strength of brightness, contrast and saturation jitter
        "color_jitter_saturation": -1.0,  # of saturation alone; negative: as color_jitter
        "color_jitter_hue": 0.0,  # share of the colour circle
        "color_jitter_probability": 1.0,
        "jitter_first": False,  # jitter the whole image before the crop (BEiT), not the crop
        "grayscale": 0.0,  # probability
        "blur": 0.0,  # probability of a Gaussian blur
        "blur_radius": (0.1, 2.0),  # pixels, uniform
        "solarize": 0.0,  # probability
        "one_effect": False,  # one of the three, with these as shares, instead of each by itself (DeiT III)
        "randaugment": "",  # timm's notation, such as m9-mstd0.5-inc1; 8-bit grey and RGB only
        "erase": 0.0,  # probability of random erasing, the last thing that is done
        "erase_mode": "pixel",  # pixel (noise in every value) | color (one random colour) | const (the mean)
        "erase_count": 1,  # rectangles
        "count": 1,  # crops per image; more than one gives the batch (B, count, H, W, C)
        "same_as": "",  # another view whose crop box, flip and jitter this one shares
        "normalize": True,  # by mean and std; False: pixels in [0, 1]
    }


def adamw() -> dict:
    return {
        "name": "adamw",  # adamw | lamb | lars | sgd
        "lr": 1.5e-4,  # base learning rate
        "lr_batch": 256,  # lr is per this many images: peak = lr * batch / lr_batch; 0: lr is the peak itself
        "min_lr": 0.0,
        "warmup_epochs": 40.0,
        "warmup_lr": 0.0,  # where the warm-up starts
        "warmup_inclusive": False,  # the last step of the warm-up is at the peak (DINO, BEiT), not the one after it
        "end_inclusive": False,  # the last step of the run is at min_lr (SparK), not the one that would follow
        "scale_min_lr": False,  # min_lr and warmup_lr are per lr_batch images too (SimMIM)
        # cosine (from the end of the warm-up) | cosine_whole (its phase counts from step 0, so it jumps there: timm) |
        # step (times decay_factor at each of decay_epochs)
        "schedule": "cosine",
        "decay_epochs": (),
        "decay_factor": 0.1,
        "schedule_stretch": 1.0,  # the schedules are those of a run so many times as long (I-JEPA: 1.25)
        "schedule_offset": 0,  # steps by which they are read ahead (I-JEPA: 1) or behind (timm: -1)
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "momentum": 0.9,  # lars, sgd
        "trust_coefficient": 0.001,  # lars
        "weight_decay": 0.05,
        "weight_decay_end": -1.0,  # reached along a cosine at the end of the run; negative: weight_decay throughout
        "layer_decay": 1.0,  # 1: none
        "clip_norm": 0.0,  # gradient norm; 0: none
        "clip": "global",  # global (one norm) | per_tensor (each parameter's own: DINO, iBOT)
        "freeze_epochs": 0.0,  # epochs in which the parameters `frozen_first` of the method stand still (DINO, iBOT)
        "ema": 0.0,  # decay of an exponential moving average of the weights; 0: none
    }


def training() -> dict:
    return {
        "start_from": "",  # a run's folder: its weights are where this one begins (continued pretraining, fine-tuning)
        "start_what": "encoder",  # encoder | all (decoder, heads and state too, of a run of the same method)
        "epochs": 400.0,
        "batch_size": 4096,  # global
        "accumulate": 1,  # micro-batches per step
        "precision": "bf16",  # compute: bf16 | fp32; parameters and losses are always fp32
        "log_every": 50,  # steps
        "on_nonfinite": "stop",  # stop | skip
        "max_skipped": 20,  # with skip: batches in all
        # off | rewind: where the loss jumps, go back to a checkpoint and leave the batches around the jump out
        "on_spike": "off",
        "spike": {
            "factor": 3.0,  # times the median of the last losses
            "window": 64,  # so many of them
            "leave_out": 4,  # batches, the one whose loss jumped the last of them
            "most": 5,  # rewinds; later jumps are only noted
        },
        "log_records": False,  # write the record numbers of every step into records/
        "checkpoint": {
            "every_epochs": 10.0,
            "every_minutes": 30.0,  # and at least this often; 0: never by time
            "keep": 2,  # last n
            "keep_best": True,  # and the best by `metric`
            "metric": "knn",  # knn | val_loss
        },
        "evaluate": {  # during training; 0: never
            "loss_every_epochs": 10.0,
            "knn_every_epochs": 20.0,
            "pictures_every_epochs": 50.0,
            "images": 2048,  # at most so many images for the loss and, of each split, for kNN
        },
        "tensorboard": True,
        "wandb": "",  # project name; '' is off
    }
