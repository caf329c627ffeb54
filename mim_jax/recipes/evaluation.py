"""Sections of `evaluation`, one for each protocol: its published recipe as defaults."""

from __future__ import annotations

from typing import Any

from mim_jax.recipes import dense


def sections() -> dict:
    """Section name -> settings; a protocol reads the section of its own name."""
    return {
        "limit": 0,  # at most so many images of each split, 0 for all; always the same random ones
        "knn": knn(),
        "linear": linear_probe(),
        "linear_sweep": linear_sweep(),
        "layers": layers(),
        "few_shot": few_shot(),
        "attentive": attentive_probe(),
        "multi_query": multi_query_probe(),
        "finetune": finetune(),
        "classify": classify(),
        "ood": ood(),
        "robustness": robustness(),
        "occlusion": occlusion(),
        "patch_shuffle": patch_shuffle(),
        "analysis": analysis(),
        "segmentation": dense.segmentation(),
        "depth": dense.depth(),
    }


def knn() -> dict:
    """Weighted kNN on the features of the whole image (DINO's protocol)."""
    return {"k": (10, 20), "temperature": 0.07, "feature": "pooled", "batch_size": 256}


def linear_probe() -> dict:
    """MAE's linear probe (appendix A.1): batch norm without affine, LARS."""
    return {
        "epochs": 90.0,
        "warmup_epochs": 10.0,
        "batch_size": 16384,
        "lr": 0.1,
        "lr_batch": 256,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 0.001,
        "feature": "cls",  # cls | pooled
        "augment": False,  # True: random crops and flips through the encoder each epoch; False: cached features
        "scale": (0.08, 1.0),
    }


def linear_sweep() -> dict:
    """The sweep of DINO and iBOT: linear layers without normalisation, SGD, every rate (and feature) at once."""
    tens = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return {
        "epochs": 100,
        "batch_size": 1024,
        "lr": tuple(float(f"{digit * ten:.4g}") for ten in tens for digit in range(1, 10)),  # iBOT: 1e-4 ... 9
        "lr_batch": 256,
        "momentum": 0.9,
        "weight_decay": 0.0,
        # cls | pooled | both (DINO, ViT-B) | lastN (DINO, ViT-S: last4); none: cls where there is one, else pooled
        "features": (),
        # Which rate and feature count: those best on the held-out images (the authors) | on a tenth of the training
        # images, from which nothing is learned then.
        "choose_by": "eval",
        "augment": True,  # random crops and flips through the encoder each epoch (the authors); False: cached features
        "scale": (0.08, 1.0),
    }


def layers() -> dict:
    """A linear probe after every block, all at once: batch norm without affine, SGD, a few rates."""
    return {
        "epochs": 30,
        "batch_size": 1024,
        "lr": (0.01, 0.03, 0.1, 0.3),
        "lr_batch": 256,
        "momentum": 0.9,
        "weight_decay": 0.0,
    }


def few_shot() -> dict:
    """Logistic regression on few labels (MSN, section 5.1; I-JEPA): rows centred, of unit length, no intercept."""
    return {
        "images_per_class": (1, 5, 10),
        "fractions": (0.01,),  # of the training images, at least one a class
        "draws": 3,  # subsets of each size; the mean over them counts
        "penalty": 0.0025,  # divided by the number of images
        "feature": "pooled",
        "normalize": True,
    }


def multi_query_probe() -> dict:
    """Efficient probing (Psomas et al. 2026): MAE's linear probing recipe with a pooling by many queries."""
    return {
        "epochs": 90.0,
        "warmup_epochs": 10.0,
        "batch_size": 4096,
        "lr": 0.1,
        "lr_batch": 256,
        "min_lr": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 0.001,
        "queries": 32,
        "cls": False,  # the class token too: where pretraining was defined on it
        "augment": False,
        "scale": (0.08, 1.0),
        "cache_gb": 8.0,
    }


def attentive_probe() -> dict:
    """CAE's attentive probe (released recipe): one cross-attention of a learned query, batch norm, SGD."""
    return {
        "epochs": 90.0,
        "warmup_epochs": 10.0,
        "batch_size": 8192,
        "lr": 0.4,
        "lr_batch": 0,
        "min_lr": 1e-6,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "heads": 0,  # of the attention; 0: as many as the encoder has
        "augment": False,  # True: random crops and flips through the encoder in every epoch
        "scale": (0.08, 1.0),
        "cache_gb": 8.0,  # tokens of all images are kept up to this size (GiB a host), else made anew every epoch
    }


def finetune() -> dict:
    """MAE's fine-tuning of ViT-B (released recipe)."""
    return {
        "epochs": 100.0,
        "warmup_epochs": 5.0,
        "batch_size": 1024,
        "accumulate": 1,  # micro-batches per step
        "precision": "bf16",  # bf16 | fp32
        "optimizer": "adamw",  # adamw | lamb | lars | sgd
        "lr": 5e-4,
        "lr_batch": 256,
        "min_lr": 1e-6,
        "warmup_lr": 0.0,  # where the warm-up starts
        "scale_min_lr": False,  # min_lr and warmup_lr are per lr_batch images too (SimMIM)
        "schedule": "cosine",  # cosine | cosine_whole (timm's, SimMIM)
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.05,
        "layer_decay": 0.65,
        "clip_norm": 0.0,
        "ema": 0.0,  # decay of the moving average of the weights that is judged; 0: the weights themselves
        "drop_path_rate": 0.1,
        "pooling": "mean",  # mean | cls | all (patches and class token)
        "head_std": 0.0,  # of the head's first weights; 0: as the family has it
        # '' (a table in every block where pretraining had one for all, else as pretrained) | none | shared | per_block
        "relative_bias": "",
        "window_size": 0,  # of a Swin transformer; 0: as pretrained
        "trainable_blocks": 0.0,  # 0: all; k: the last k blocks and the head; 0.5: the perceptron of the last one
        "criterion": "cross_entropy",  # cross_entropy | binary (SparK's ResNets)
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mixup_probability": 1.0,
        "mixup_switch_probability": 0.5,
        "mixup_mode": "batch",  # batch (one choice for all images) | each
        "randaugment": "m9-mstd0.5-inc1",  # timm's notation; '' for none
        "random_erasing": 0.25,
        "erasing_mode": "pixel",  # pixel | color | const
        "erasing_count": 1,
        "color_jitter": 0.0,
        "crop": "random_resized",  # as data.views.image.crop
        "scale": (0.08, 1.0),
        "flip": 0.5,
        "interpolation": "bicubic",
        "repeated": 1,  # crops of each image in a batch, whose size counts them all; 0 and 1: no repetition
        "image_size": (0, 0),  # (0, 0): as pretrained
        "crop_pct": 0.0,  # at evaluation the shorter side is the size over this; 0: data.eval_resize, in proportion
        "label_fraction": 1.0,  # share of every class that is trained on: 0.1, 0.01
        "images_per_class": 0,  # so many of every class instead: 1, 5, 10
        "subset_seed": 0,  # which ones; the same for every method
        "eval_every": 5.0,  # epochs between looks at the held-out images
        "checkpoint_every": 10.0,  # epochs; an interruption loses no more than this or ten minutes
    }


def classify() -> dict:
    """Accuracy of the classifier that a run has already."""
    return {
        # File of class names in the order of its outputs (lines or JSON), where the held-out images are numbered in
        # another order; '': the names of the training images where both have names, else the labels as they are.
        "classes": "",
    }


def finetune_cifar10(**changes: Any) -> dict[str, Any]:
    """What differs on CIFAR-10 at 32 pixels: small batches, crops that keep most of the image; `changes` on top."""
    settings = {
        "epochs": 100.0,
        "warmup_epochs": 5.0,
        "batch_size": 128,
        "lr": 1e-3,  # the peak itself
        "lr_batch": 0,
        "min_lr": 1e-6,
        "weight_decay": 0.05,
        "layer_decay": 0.75,
        "drop_path_rate": 0.1,
        "scale": (0.6, 1.0),
        "randaugment": "m9-mstd0.5-inc1",
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "random_erasing": 0.25,
    }
    return {**settings, **changes}


def ood() -> dict:
    """Out-of-distribution scores on the features of `linear` and its classifier (MOOD, MOODv2)."""
    return {
        "sources": (),  # NAME=SPEC or SPEC of each set that is not of this data set: needs no labels
        "methods": (
            *("msp", "max_logit", "energy", "energy_react", "residual", "vim"),
            *("mahalanobis", "mahalanobis_single", "gradnorm", "kl_matching", "knn"),
        ),
        "k": 50,  # of knn
        "square_resize": False,  # MOODv2: the whole image at the model's size, whatever its shape; False: resize, crop
    }


def robustness() -> dict:
    """Accuracy on sets that share the labels of the training images (ImageNet-A, -R, -Sketch, V2, ReaL, -C)."""
    return {
        "sets": (),  # NAME=SPEC of each set, such as a=folder:data/imagenet-a
        "classes": "",  # file of class names in the order of the labels (lines or JSON); '': the training source's
        "maps": (),  # NAME=FILE: JSON of a set's folder name (or label) -> class name or label, where names differ
        "restrict": True,  # choose among the classes of the set alone where it has not all (-A, -R)
        "real": "",  # ReaL's real.json for the held-out images
        "corrupted": "",  # folder of ImageNet-C: CORRUPTION/SEVERITY/CLASS/*.JPEG
    }


def occlusion() -> dict:
    """Accuracy with patches blacked out (Naseer et al. 2021, section 3.1)."""
    return {
        "ratios": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),  # share of what is lost
        "modes": ("random",),  # random | salient | non_salient
        "patch": 0,  # side in pixels; 0: the encoder's
    }


def patch_shuffle() -> dict:
    """Accuracy with the pieces of a grid in random order (Naseer et al. 2021, section 3.3)."""
    return {"grids": (1, 2, 4, 8)}  # pieces a side


def analysis() -> dict:
    """What an encoder has learned, in numbers and plots (Park et al. 2023)."""
    return {
        "images": 64,  # held-out images for what looks at all tokens
        "pooled_images": 1024,  # for CKA and the spectrum over images
        "batch_size": 16,
        "pca_images": 8,
        "centred": True,  # singular values of centred matrices; the numbers hold both
        "other": "",  # folder of another run, for CKA with it
    }
