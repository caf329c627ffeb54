"""Frozen tokenizers, read from runs and from weight files, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle
from functools import partial
from typing import ClassVar

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop import frozen
from mim_jax.methods.registry import build
from mim_jax.methods.tokenizer import Tokenizer
from mim_jax.models.tokenizer import TokenizerConfig, tokenizer_init
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.groups import flat
from mim_jax.training.optimizer import build as build_optimizer
from mim_jax.training.runs import example_batch
from mim_jax.training.state import init_state

SMALL = dict(kind="vq", image_size=(32, 32), stride=4, vocabulary=16, hidden=8, blocks=1, code_width=4)


@dataclasses.dataclass(frozen=True)
class Student(Tokenizer):
    """Stands for a method that predicts tokens."""

    name: ClassVar[str] = "student"
    tokenizer: TokenizerConfig = TokenizerConfig()  # type: ignore[assignment]

    def sources(self):
        return {"tokenizer": self.tokenizer.source}


def student(**settings) -> Student:
    return Student(tokenizer=TokenizerConfig.from_section(settings))


def shapes(method: Student):
    return {"tokenizer": jax.eval_shape(lambda key: tokenizer_init(method.tokenizer, key), jax.random.key(0))}


@pytest.fixture(scope="module")
def run(tmp_path_factory, root):
    """A run folder of a tokenizer, saved but hardly trained, and its state."""
    workdir = tmp_path_factory.mktemp("runs") / "tokenizer"
    config = configs.load(f"{root}/configs/tokenizer/cifar10.py")
    with config.model.unlocked():
        config.model.update({key: value for key, value in SMALL.items() if key != "source"})
    method, batch = build(config), example_batch(config)
    optimizer = build_optimizer(
        config.optimizer, method.param_groups(), jax.eval_shape(method.init, jax.random.key(0), batch).params
    )
    state, _ = jax.jit(partial(init_state, method, optimizer, ema=False))(jax.random.key(7), batch)
    workdir.mkdir()
    configs.save(config, workdir / "config.json")
    checkpoints = Checkpoints(workdir)
    checkpoints.save(3, state, {"step": 3})
    checkpoints.close()
    return workdir, state


def test_a_run_gives_its_encoder_codes_and_decoder(run):
    workdir, state = run
    method = student(**SMALL, source=str(workdir), precision="bf16")
    frozen.check(method)
    read = frozen.read(method, shapes(method))["tokenizer"]
    assert jax.tree.map(np.shape, read) == jax.tree.map(lambda s: s.shape, shapes(method)["tokenizer"])
    np.testing.assert_array_equal(read["codebook"], state.extra["codebook"].vectors)
    for part in ("encoder", "decoder"):
        for name, leaf in flat(read[part]).items():
            np.testing.assert_array_equal(leaf, flat(state.params[part])[name], err_msg=name)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(source=""), "source is empty, so student would learn from an untrained .*configs/tokenizer/cifar10.py"),
        (dict(source="no/such/run"), "method.tokenizer.source 'no/such/run' does not exist; train one"),
        (
            dict(vocabulary=17),
            "vocabulary is 17, but the tokenizer in .* trained with 16; set .*vocabulary to 16",
        ),
        (dict(image_size=(64, 64)), r"image_size is \(64, 64\), but .* trained with \(32, 32\)"),
        (dict(kind="dvae"), "kind is 'dvae', but the tokenizer in '.*' was trained with 'vq'"),
    ],
)
def test_sources_that_do_not_fit_are_refused(run, change, sentence):
    method = student(**{**SMALL, "source": str(run[0]), **change})
    with pytest.raises(ConfigError, match=sentence) as error:
        frozen.check(method)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=sentence):
        frozen.read(method, shapes(method))


def test_folders_that_are_no_tokenizer_runs_are_refused(run, root, tmp_path):
    with pytest.raises(ConfigError, match="is not a run .no config.json., which method.tokenizer.kind 'vq' needs"):
        frozen.check(student(**SMALL, source=str(tmp_path)))
    configs.save(configs.load(f"{root}/configs/mae/digits.py"), tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is a run of 'mae'; give one of configs/tokenizer/"):
        frozen.check(student(**SMALL, source=str(tmp_path)))
    configs.save(configs.load_json(run[0] / "config.json"), tmp_path / "config.json")
    with pytest.raises(ConfigError, match="cannot be used: .* holds no checkpoints"):
        frozen.read(student(**SMALL, source=str(tmp_path)), shapes(student(**SMALL)))


@pytest.fixture
def published(shared):
    return shared / "goldens" / "beit" / "dvae_encoder" / "weights.safetensors"


PUBLISHED = dict(kind="dalle", image_size=32, hidden=16, vocabulary=64)


def test_published_weights_from_safetensors(published):
    method = student(**PUBLISHED, source=str(published))
    read = frozen.read(method, shapes(method))["tokenizer"]
    theirs = load_file(published)["blocks.group_2.block_1.res_path.conv_1.w"]
    np.testing.assert_array_equal(read["encoder"]["group_2_block_1"]["conv_1"]["kernel"], theirs.transpose(2, 3, 1, 0))


def test_a_folder_needs_encoder_and_decoder(published, tmp_path):
    (tmp_path / "encoder.safetensors").symlink_to(published)
    method = student(**PUBLISHED, source=str(tmp_path))
    with pytest.raises(ConfigError, match="holds no decoder as one of .safetensors, .* name the encoder's file itself"):
        frozen.check(method)
    (tmp_path / "decoder.safetensors").symlink_to(published)
    frozen.check(method)
    with pytest.raises(ConfigError, match="cannot be used: .*blocks.group_2.block_1|cannot be used: .*gives shape"):
        frozen.read(method, shapes(method))


def test_weights_of_another_size_are_refused(published, tmp_path):
    method = student(**{**PUBLISHED, "vocabulary": 32}, source=str(published))
    with pytest.raises(ConfigError, match=r"cannot be used: 'blocks.output.conv.w' gives shape \(1, 1, 128, 64\)"):
        frozen.read(method, shapes(method))
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "encoder.safetensors")
    method = student(**PUBLISHED, source=str(tmp_path / "encoder.safetensors"))
    with pytest.raises(ConfigError, match="nothing of ours takes the array 'a'"):
        frozen.read(method, shapes(method))
    (tmp_path / "encoder.h5").write_bytes(b"")
    method = student(**PUBLISHED, source=str(tmp_path / "encoder.h5"))
    with pytest.raises(ConfigError, match="neither .safetensors nor .npz nor a file of torch"):
        frozen.read(method, {"tokenizer": {"encoder": shapes(method)["tokenizer"]["encoder"]}})


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_torch_state_dicts_are_read_and_pickles_never_run(published, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    torch.save({k: torch.from_numpy(v.copy()) for k, v in load_file(published).items()}, tmp_path / "encoder.pt")
    method = student(**PUBLISHED, source=str(tmp_path / "encoder.pt"))
    other = student(**PUBLISHED, source=str(published))
    ours, same = (frozen.read(m, shapes(m)) for m in (method, other))
    for name, leaf in flat(ours).items():
        np.testing.assert_array_equal(leaf, flat(same)[name], err_msg=name)

    torch.save({"module": Trap()}, tmp_path / "encoder.pkl")
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(Trap()))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    for file, sentence in (
        ("encoder.pkl", "holds more than tensors, and is not opened .*; turn it into a state dict as docs/gallery"),
        ("old.pkl", "holds more than tensors"),
        ("list.pth", "holds no state dict"),
    ):
        method = student(**PUBLISHED, source=str(tmp_path / file))
        with pytest.raises(ConfigError, match=sentence):
            frozen.read(method, shapes(method))


def test_an_entry_that_nothing_reads_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Other(Student):
        def sources(self):
            return {"oracle": "somewhere"}

    with pytest.raises(ConfigError, match="nothing is known that reads a 'oracle' .known: tokenizer"):
        frozen.check(Other())
