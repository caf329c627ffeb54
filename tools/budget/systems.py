"""What every system is at the small budget: changes of configs/SYSTEM/cifar10.py, and of the evaluations."""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 64
PROBE = ("evaluation.knn.k=10,20", "evaluation.knn.feature=pooled", "evaluation.linear.feature=pooled")
PROBE += ("evaluation.linear.batch_size=1000", "evaluation.linear.lr=6.4", "evaluation.linear.lr_batch=0")
SMALL_VIT = ("model.width=96", "model.depth=3", "model.heads=3")
SMALL_TEACHER = tuple(setting.replace("model.", "method.teacher.model.") for setting in SMALL_VIT)
SMALL_DECODER = ("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2")
COMMON = ("optimizer.lr=1e-3", "optimizer.lr_batch=0", "training.log_every=20")
COMMON += tuple(f"training.evaluate.{what}_every_epochs=0" for what in ("knn", "loss", "pictures"))
# Fine-tuning of minutes: the recipe's augmentation is for a hundred epochs.
FINETUNE = (
    "epochs=5",
    "warmup_epochs=1",
    "batch_size=128",
    "lr=1e-3",
    "lr_batch=0",
    "layer_decay=0.75",
    "scale=0.6,1.0",
)
FINETUNE += ("drop_path_rate=0.0", "precision=fp32", "mixup=0.0", "cutmix=0.0", "randaugment=", "random_erasing=0.0")
FINETUNE += ("eval_every=5",)
ATTENTIVE = ("epochs=10", "warmup_epochs=1", "batch_size=512", "lr=0.1")
SETTINGS = {
    "knn": tuple(change for change in PROBE if ".knn." in change),
    "linear": tuple(change for change in PROBE if ".linear." in change),
    "attentive": tuple(f"evaluation.attentive.{change}" for change in ATTENTIVE),
    "finetune": tuple(f"evaluation.finetune.{change}" for change in FINETUNE),
}


@dataclass(frozen=True)
class System:
    """changes: what makes configs/NAME/cifar10.py small. needs: a system whose run it reads, as `takes`.

    judged: whether it learns an encoder; the others are trained as their config says. images: that it sees where they
    are not those of the others.
    """

    changes: tuple[str, ...] = ()
    encoder: tuple[str, ...] = SMALL_VIT
    arguments: str = ""
    needs: str = ""
    takes: str = "tokenizer"  # tokenizer | teacher
    judged: bool = True
    images: int = 0


# The published momenta average over far more steps than there are here; and the run is shorter than an epoch.
SELF_DISTILLATION = System(
    (
        *("method.ema_momentum=0.99", "optimizer.freeze_epochs=0.05", "model.drop_path_rate=0.0"),
        *("method.head.hidden=256", "method.head.bottleneck=64"),
        *("method.distillation.temperature=0.04", "method.distillation.patch_temperature=0.04"),
    ),
    arguments="local_crops=2,outputs=256",
    images=102_400,  # after 32,000 iBOT's kNN is still that of the untrained encoder
)
SYSTEMS = {
    "tokenizer": System(encoder=(), judged=False),
    "mae": System(SMALL_DECODER),
    "mff": System((*SMALL_DECODER, "method.taps=(0,1,2)")),
    "colormae": System(SMALL_DECODER),
    "hpm": System(SMALL_DECODER),
    "localmim": System(("method.decoder_width=64", "method.decoder_heads=2", "method.taps=(0,0,1,2)")),
    "lut": System((*SMALL_DECODER, "method.ema_momentum=0.99"), arguments="head_hidden=256"),
    "dmae": System(
        (*SMALL_DECODER, *SMALL_TEACHER, "method.blocks=(1,)", "method.teacher_blocks=(1,)"),
        needs="mae",
        takes="teacher",
    ),
    "simmim": System(),
    "maskfeat": System(),
    "beit": System(needs="tokenizer"),
    "cae": System(
        ("method.decoder_width=96", "method.decoder_heads=3", "method.decoder_depth=1"),
        needs="tokenizer",
    ),
    "ibot": SELF_DISTILLATION,
    "attmask": SELF_DISTILLATION,
    # At 1e-3 its linear probe fell below the untrained encoder's; the published rate is 1e-3 for batches of 2048.
    "ijepa": System(("method.momentum=0.98", "optimizer.lr=3e-4"), arguments="predictor_width=64,predictor_depth=2"),
    "msn": System(
        ("method.ema_momentum=0.99", "method.head_hidden=256", "method.head_outputs=64"),
        arguments="local_crops=2,prototypes=64",
    ),
    "convmae": System(
        (
            *("model.stem_width=(24,48)", "model.stem_depth=(1,1)"),
            *("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2"),
        ),
    ),
    "dbot": System((*SMALL_DECODER, *SMALL_TEACHER)),
    "dbot_beit": System(SMALL_TEACHER, needs="mae", takes="teacher"),
    "vqkd": System(
        (
            *("model.hidden=96", "model.blocks=3", "method.decoder_width=96", *SMALL_TEACHER),
            *("optimizer.lr=1e-3", "training.evaluate.loss_every_epochs=0", "training.log_every=20"),
        ),
        encoder=(),
        arguments="epochs=0.64,batch_size=64",
        needs="mae",
        takes="teacher",
        judged=False,
    ),
    "beitv2": System(
        ("method.early_layers=2", "method.tokenizer.hidden=96", "method.tokenizer.blocks=3"),
        needs="vqkd",
    ),
    "eva02": System(SMALL_TEACHER, needs="mae", takes="teacher"),
    "maskalign": System((*SMALL_TEACHER, "method.layer_weights=top2"), needs="mae", takes="teacher"),
    "dmjd": System(
        (
            *("model.stem_width=(24,48)", "model.stem_depth=(1,1)"),
            *("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2"),
        ),
    ),
    "croco": System(("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2")),
    "multimae": System(("method.decoder_heads=2",), arguments="decoder_width=64"),
    "spark": System(
        ("model.width=(16,32,64,128)", "method.decoder_width=64", "optimizer.lr=4e-3"),  # LAMB's rates are larger
        encoder=(),
    ),
}
