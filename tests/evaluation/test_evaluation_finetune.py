"""Fine-tuning as a protocol: a tiny run that is interrupted, its numbers, its config, its sentences."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import recipes
from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation import finetune
from mim_jax.evaluation.encoders import Encoder, raw_pixels
from mim_jax.evaluation.finetune import Finetune
from mim_jax.evaluation.finetune_config import finetune_config
from mim_jax.evaluation.protocol import Task
from mim_jax.evaluation.run import evaluate
from mim_jax.methods import registry
from mim_jax.methods.beit import BEiT
from mim_jax.methods.convmae import ConvMAE
from mim_jax.methods.dmjd import DMJD
from mim_jax.methods.multimae import MultiMAE
from mim_jax.methods.simmim import SimMIM
from mim_jax.methods.tokenizer import Tokenizer
from mim_jax.nn.images import normalize
from mim_jax.training.groups import flat
from mim_jax.training.runs import load_run
from mim_jax.training.sharding import make_mesh

SHORT = dict(epochs=2.0, warmup_epochs=0.5, batch_size=16, lr=1e-3, lr_batch=0, precision="fp32", flip=0.0)
SHORT |= dict(images_per_class=8, eval_every=1.0, checkpoint_every=1.0, ema=0.5)


def protocol(**changes):
    section = recipes.pretrain().evaluation
    section.finetune.update(SHORT | changes)
    return Finetune.from_config(section)


@pytest.fixture
def task(build, tmp_path):
    method, variables = build(channels=1)
    config = recipes.pretrain()
    config.data.update(source="digits:train", eval_source="digits:test", channels=1, mean=(0.3,), std=(0.35,))
    config.data.update(eval_resize=16, threads=2)
    config.data.views.image.size = (16, 16)
    said: list[str] = []
    made = Task(Encoder("pretrained", variables, method), config.data, (), batch_size=100, say=said.append)
    made.workdir, made.said = tmp_path / "run", said
    return made


def config_of(task, method=None, **changes):
    if method is not None:
        task.encoder = dataclasses.replace(task.encoder, method=method)
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    return finetune_config(protocol(**changes).shown(), task, 10, mesh)


def test_an_interrupted_run_goes_on_and_is_judged_on_all_held_out_images(task, monkeypatch):
    """359 held-out images in batches of 100 over eight devices; the moving average is what is judged."""
    judge = finetune.HeldOut.__call__

    def dies(self, variables, step):
        if step == 10:
            raise KeyboardInterrupt
        return judge(self, variables, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune.HeldOut, "__call__", dies)
        protocol().run(task)
    assert sum("arrays of the encoder taken" in sentence for sentence in task.said) == 1
    numbers = protocol().run(task)
    assert sum("arrays of the encoder taken" in sentence for sentence in task.said) == 1  # not read again
    assert numbers.counts == {"train": 80, "eval": 359, "classes": 10}
    assert [epoch for epoch, _ in numbers.details["curve"]] == [1.0, 2.0]
    assert numbers.details["steps"] == 10 and numbers.settings["peak_lr"] == 1e-3

    run = load_run(task.workdir)
    assert run.step == 10 and run.config.method.classes == 10
    weight, bias = run.method.classifier(run.variables.params)
    hits = 0
    for batch in task.open(task.data, "eval"):
        features = run.method.encode(run.variables.params, normalize(jnp.asarray(batch["image"]), (0.3,), (0.35,)))
        right = np.asarray((features.pooled @ weight + bias).argmax(-1)) == batch["label"]
        hits += int(right[batch["valid"]].sum())
    assert numbers.metrics["top1"] == pytest.approx(hits / 359, abs=1e-6)
    assert numbers.metrics["top5"] >= numbers.metrics["top1"] == numbers.details["curve"][-1][1]
    json.dumps(dataclasses.asdict(numbers))

    (own,) = evaluate(task.workdir, ("classify",))  # the run that came out, by its own classifier
    assert own["metrics"] == {**numbers.metrics, "loss": numbers.details["eval_loss"]} and own["baselines"] == {}
    assert own["counts"] == {"eval": 359, "classes": 10, "classes_in_eval": 10}
    assert own["settings"]["head"] == "fine-tuned" and len(own["details"]["pretrained"]["top1_by_class"]) == 10


def test_the_config_is_the_recipe(task):
    config = config_of(task, images_per_class=0, batch_size=64, accumulate=2, drop_path_rate=0.2, trainable_blocks=1.0)
    method = registry.build(config)
    assert method.model.drop_path_rate == 0.2 and method.trainable_blocks == 1 and config.training.batch_size == 64
    view = config.data.views.image
    assert (view.randaugment, view.erase, view.scale) == ("m9-mstd0.5-inc1", 0.25, (0.08, 1.0))
    assert config.optimizer.layer_decay == 0.65 and config.optimizer.ema == 0.5 and config.training.accumulate == 2
    assert config.data.fraction == 1.0 and not task.said


def test_subsets_and_sizes(task):
    config = config_of(task, images_per_class=0, label_fraction=0.1, image_size=(32, 24), crop_pct=0.75, batch_size=512)
    assert config.data.fraction == 0.1 and config.data.balanced
    assert tuple(config.model.image_size) == tuple(config.data.views.image.size) == (32, 24)
    assert config.data.eval_resize == 32
    assert config.training.batch_size == 144 and "batch size 512 is more than 144 training images" in task.said[0]
    assert config_of(task, image_size=(32, 32)).data.eval_resize == 32  # in proportion


def test_repeated_images_keep_steps_and_rate(task):
    """A batch of 32 is 8 images four times; an epoch of the recipe has as many crops as there are images."""
    config = config_of(task, images_per_class=0, repeated=4, batch_size=32, epochs=20.0, lr=1e-3, lr_batch=256)
    assert config.training.batch_size == 8 and config.training.epochs == 5.0 and config.data.views.image.count == 4
    assert config.optimizer.lr == pytest.approx(1e-3 * 32 / 256) and config.optimizer.lr_batch == 0
    assert config.optimizer.warmup_epochs == 0.125


def test_families(task):
    config = config_of(task, BEiT.tiny(channels=1))
    assert config.model.relative_bias == "per_block"
    assert config_of(task, BEiT.tiny(channels=1), relative_bias="shared").model.relative_bias == "shared"
    swin = config_of(task, SimMIM.tiny(arch="swinv2", channels=1), image_size=(32, 32), window_size=4)
    assert swin.model.window_size == 4 and tuple(swin.model.pretrained_windows) == (2, 2)
    conv = config_of(task, DMJD.tiny(channels=1)).model
    assert (conv.arch, conv.drop_path_rate, tuple(conv.stem_depth)) == ("conv_vit", 0.1, (1, 2))
    alone = config_of(task, MultiMAE.tiny(channels=1), pooling="all")
    assert alone.model.cls_token and alone.model.positions == "sincos_row" and alone.method.pooling == "all"
    with pytest.raises(ConfigError, match="method.global_tokens 2 is no plain vision transformer"):
        config_of(task, dataclasses.replace(MultiMAE.tiny(channels=1), global_tokens=2))


@pytest.mark.slow
@pytest.mark.parametrize("kind, pooling", [(ConvMAE, "mean"), (MultiMAE, "all")])
def test_encoders_that_are_no_plain_transformers(task, kind, pooling):
    """From pretrained weights to a run that opens again and gives the same accuracy."""
    method = kind.tiny(channels=1)
    variables = jax.jit(method.init)(jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 1))})
    task.encoder, task.limit = Encoder("pretrained", variables, method), 60
    numbers = protocol(epochs=2.0, images_per_class=4, pooling=pooling).run(task)
    assert sum("arrays of the encoder taken" in sentence for sentence in task.said) == 1
    assert np.isfinite(numbers.details["eval_loss"]) and numbers.counts["eval"] == 60 and numbers.details["steps"] == 4
    run = load_run(task.workdir)
    assert run.method.pooling == pooling and not hasattr(run.method.model, "arch")
    before, after = flat(method.image_encoder(variables.params)), flat(run.variables.params["encoder"])
    assert all((before[path] != leaf).any() for path, leaf in after.items() if path in before)
    (own,) = evaluate(task.workdir, ("classify",), overrides=["evaluation.limit=60"])
    assert own["metrics"]["top1"] == numbers.metrics["top1"]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(warmup_epochs=2.0), "evaluation.finetune.warmup_epochs = 2.0 must be from 0 to below"),
        (dict(lr=0.0), "evaluation.finetune.lr = 0.0 must be above 0"),
        (dict(label_fraction=0.1), "images_per_class = 8 and evaluation.finetune.label_fraction = 0.1 both say"),
    ],
)
def test_settings_that_contradict_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        protocol(**changes)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(batch_size=17), "evaluation.finetune.batch_size = 17 does not divide into 2 equal parts"),
        (dict(image_size=(18, 16)), "a patch of 4 does not divide the image height of 18"),
        (dict(images_per_class=200), "class . has 1.. labelled images, fewer than the 200"),
        (dict(randaugment="m9-hard"), "data.views.image.randaugment: 'hard'"),
        (dict(images_per_class=1, accumulate=8, batch_size=64), "10 training images are fewer than the 16 parts"),
    ],
)
def test_what_does_not_serve_is_refused(task, changes, words):
    with pytest.raises((ConfigError, DataError), match=words):
        config_of(task, **changes)


def test_labels_and_encoders_that_do_not_serve(task):
    with pytest.raises(ConfigError, match="a run of 'tokenizer' has no encoder that could be fine-tuned"):
        config_of(task, Tokenizer.tiny())
    assert raw_pixels().name not in Finetune.baselines
    task.data.eval_source = "digits"
    assert finetune.labelled(task)["eval"] == 1797
    with task.data.unlocked():
        task.data.source = "npy:missing.npy"
    with pytest.raises(DataError, match="missing.npy"):
        finetune.labelled(task)
