"""Configs: loading, overriding, checking, saving and comparing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mim_jax import config, recipes
from mim_jax.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*/*.py"))

GOOD = """
from mim_jax import config as configs
from mim_jax import recipes

def get_config(arg=None):
    given = configs.arguments(arg, epochs=10.0, size=(8, 8), variant="S/4", flip=True)
    config = recipes.pretrain()
    config.training.epochs = given.epochs
    config.data.views.image.size = given.size
    config.model = {"variant": given.variant, "depth": 2, "drop_path_rate": 0.0}
    config.method = {"name": "mae", "mask_ratio": 0.75}
    return config
"""


def write(folder, text: str, name: str = "small.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def good(tmp_path) -> str:
    return write(tmp_path, GOOD)


@pytest.fixture
def full() -> ConfigDict:
    return recipes.pretrain()


def changed(**values) -> ConfigDict:
    """The recipe with dotted keys set, as a careless config file could."""
    made = recipes.pretrain()
    with made.unlocked(), made.ignore_type():
        for key, value in values.items():
            *sections, last = key.split("__")
            parent = made
            for name in sections:
                parent = parent[name]
            parent[last] = value
    return made


# ---- loading


def test_load_passes_the_argument_and_locks(good):
    loaded = config.load(f"{good}:epochs=3,size=16,24,variant=B/16")
    assert (loaded.training.epochs, loaded.data.views.image.size, loaded.model.variant) == (3.0, (16, 24), "B/16")
    assert isinstance(loaded.training.epochs, float)
    with pytest.raises(AttributeError):
        loaded.model.invented = 1


def test_load_leaves_no_bytecode_and_no_module_behind(good, tmp_path):
    import sys

    before = set(sys.modules)
    config.load(good)
    assert [p.name for p in tmp_path.iterdir()] == ["small.py"]
    assert not {name for name in set(sys.modules) - before if "small" in name}


def test_load_runs_the_file_anew_each_time(good, tmp_path):
    config.load(good)
    write(tmp_path, GOOD.replace("epochs=10.0", "epochs=20.0"))
    assert config.load(good).training.epochs == 20.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "defines no get_config"),
        ("def get_config(arg=None):\n    return {}\n", "returned dict"),
        ("def get_config(arg):\n    y = 1\n    return y / 0\n", "line 3: ZeroDivisionError"),
        ("def get_config(arg)\n", "line 1"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
        (GOOD.replace("config.training.epochs", "config.training.epoch"), "epochs"),
        (GOOD.replace("given.epochs", "'ten'"), "line 8: TypeError"),
    ],
)
def test_load_says_in_one_sentence_what_is_wrong_with_a_file(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert path in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)


def test_load_names_the_nearest_file(good, tmp_path):
    write(tmp_path, GOOD, "imagenet.py")
    with pytest.raises(ConfigError, match=r"no config file .*smal\.py; the nearest is .*small\.py"):
        config.load(str(tmp_path / "smal.py"))
    with pytest.raises(ConfigError, match=r"the nearest is .*imagenet\.py"):
        config.load(str(tmp_path / "mae" / "imagenet.py"))


def test_load_refuses_an_unknown_argument_with_the_file_and_the_nearest_name(good):
    with pytest.raises(ConfigError, match=r"small\.py: no argument 'epoch'; did you mean 'epochs'"):
        config.load(f"{good}:epoch=3")


# ---- arguments


def test_arguments_are_typed_by_their_defaults():
    given = config.arguments("a=3,b=1e-3,c=yes,d=1,2,e=x y", a=1, b=1.0, c=False, d=(0,), e="")
    assert vars(given) == {"a": 3, "b": 0.001, "c": True, "d": (1, 2), "e": "x y"}
    assert vars(config.arguments(None, a=1)) == vars(config.arguments("", a=1)) == {"a": 1}


@pytest.mark.parametrize("arg", ["a=x", "a=1.5", "b=1", "a", "a=1,2", "c=maybe"])
def test_arguments_refuses(arg):
    with pytest.raises(ConfigError):
        config.arguments(arg, a=1, c=True)


# ---- overrides


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("optimizer.lr=2", "optimizer.lr", 2.0),
        ("config.seed=7", "seed", 7),
        ("--config.training.batch_size=1e3", "training.batch_size", 1000),
        ("training.tensorboard=False", "training.tensorboard", False),
        ("training.tensorboard=on", "training.tensorboard", True),
        ("data.source=folder:/a=b", "data.source", "folder:/a=b"),
        ("data.source=", "data.source", ""),
        ("data.views.image.size=32,48", "data.views.image.size", (32, 48)),
        ("data.views.image.scale=(0.5,1)", "data.views.image.scale", (0.5, 1.0)),
        ("data.views.image.ratio=[3/4, 4/3]", "data.views.image.ratio", (0.75, 4 / 3)),
        ("evaluation.knn.k=5", "evaluation.knn.k", (5,)),
        ("sharding=(('mlp/.*',('','tensor')),)", "sharding", (("mlp/.*", ("", "tensor")),)),
        ("model.depth=4", "model.depth", 4),
        ("model.drop_path_rate=1", "model.drop_path_rate", 1.0),
        ("method.norm_pix=false", "method.norm_pix", False),  # not in the file: the method knows it
    ],
)
def test_override(good, text, key, value):
    found = config.flat(config.load(good, [text]))[key]
    assert found == value and type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(v) for v in found] == [type(v) for v in value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer.lrr=1", "config.optimizer.lrr is not a setting; did you mean 'config.optimizer.lr'?"),
        ("lr=1", "did you mean 'config.optimizer.lr'?"),
        ("training.mask_ratio=0.5", "did you mean 'config.method.mask_ratio'?"),
        ("trainin.epochs=5", "did you mean 'config.training.epochs'?"),
        ("data.views.imag.size=5,5", "did you mean 'config.data.views.image.size'?"),
        ("optimizer.lr.x=1", "config.optimizer.lr.x is not a setting"),
        ("optimizer.lr=fast", "config.optimizer.lr=fast: expected a number"),
        ("training.batch_size=1.5", "config.training.batch_size=1.5: expected a whole number"),
        ("training.tensorboard=2", "expected true or false"),
        ("data.views.image.scale=a,b", "expected a list of values such as 0.2,1.0"),
        ("optimizer=adamw", "config.optimizer is a section"),
        ("optimizer.lr", "config.optimizer.lr needs a value"),
    ],
)
def test_override_refuses(good, text, words):
    with pytest.raises(ConfigError) as caught:
        config.load(good, [text])
    assert words in str(caught.value)


def test_override_copies(full):
    config.override(full, ["seed=5"])
    assert full.seed == 0


# ---- the check


def test_the_recipe_is_valid(full):
    config.check(full)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path):
    config.check(config.load(str(path)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("training.epochs", 0.0),
        ("training.epochs", float("nan")),
        ("training.epochs", "many"),
        ("training.batch_size", 0),
        ("training.batch_size", 64.0),
        ("training.batch_size", True),
        ("training.accumulate", 3),  # 4096 images do not make 3 equal parts
        ("training.accumulate", 0),
        ("training.precision", "fp16"),
        ("training.on_nonfinite", "ignore"),
        ("training.tensorboard", 1),
        ("training.checkpoint.keep", 0),
        ("training.checkpoint.metric", "accuracy"),
        ("training.checkpoint", 5),
        ("training.evaluate.images", 0),
        ("optimizer.name", "adam"),
        ("optimizer.lr", -1e-3),
        ("optimizer.lr", float("inf")),
        ("optimizer.b2", 1.0),
        ("optimizer.layer_decay", 0.0),
        ("optimizer.ema", 1.0),
        ("optimizer", 3),
        ("data.source", " "),
        ("data.on_error", "continue"),
        ("data.max_bad_fraction", 1.5),
        ("data.channels", 0),
        ("data.mean", ("grey",)),
        ("data.views", {}),
        ("evaluation.knn.k", ()),
        ("evaluation.knn.k", (0,)),
        ("evaluation.knn.temperature", -0.1),
        ("evaluation.linear.epochs", 0.0),
        ("evaluation.linear.scale", (0.5, 0.1)),
        ("evaluation.finetune.label_smoothing", 1.0),
        ("mesh.data", 0),
        ("mesh.fsdp", -1),  # data is -1 already
        ("sharding", (("mlp",),)),
        ("sharding", (("(", ("fsdp",)),)),
        ("sharding", (("mlp", ("tensors",)),)),
        ("model.depth", {1, 2}),
    ],
)
def test_check_refuses_and_names_key_and_value(key, value):
    with pytest.raises(ConfigError) as caught:
        config.check(changed(**{key.replace(".", "__"): value}))
    assert f"config.{key}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainning", "training"),
        ("optimizer.learning_rate", "optimizer."),
        ("optimizer.wieght_decay", "optimizer.weight_decay"),
        ("training.checkpoint.every_epoch", "training.checkpoint.every_epochs"),
        ("evaluation.knn.temprature", "evaluation.knn.temperature"),
        ("data.views.image.sise", "data.views.image.size"),
        ("training.lr", "optimizer.lr"),
    ],
)
def test_check_names_the_nearest_key(key, nearest):
    with pytest.raises(ConfigError) as caught:
        config.check(changed(**{key.replace(".", "__"): 1}))
    assert f"config.{key} is not a setting" in str(caught.value) and nearest in str(caught.value)


def test_check_names_the_nearest_value_and_the_missing_key():
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        config.check(changed(training__precision="b16"))
    made = recipes.pretrain()
    with made.unlocked():
        del made.training["epochs"]
    with pytest.raises(ConfigError, match="config.training.epochs is missing"):
        config.check(made)


def test_check_takes_several_views_of_any_name():
    made = changed(data__views={"crop": recipes.view((8, 8)), "whole": recipes.view()})
    config.check(made)
    with made.unlocked():
        made.data.views.whole.sise = 1
    with pytest.raises(ConfigError, match="config.data.views.whole.sise"):
        config.check(made)


# ---- saving and comparing


def test_save_and_load_json_restore_everything(good, tmp_path):
    made = config.load(good, ["sharding=(('mlp/.*',('','tensor')),)"])
    config.save(made, tmp_path / "config.json")
    loaded = config.load_json(tmp_path / "config.json")
    assert loaded.to_dict() == made.to_dict()
    assert loaded.sharding == (("mlp/.*", ("", "tensor")),)
    assert config.fingerprint(loaded) == config.fingerprint(made)
    assert config.load(str(tmp_path)).to_dict() == made.to_dict()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "small.py"]


def test_save_leaves_the_old_file_when_it_fails(tmp_path, full):
    config.save(full, tmp_path / "config.json")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(TypeError):
        config.save(changed(model__depth={1}), tmp_path / "config.json")
    assert (tmp_path / "config.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_load_json_fills_in_settings_newer_than_the_file(tmp_path, full):
    values = json.loads(config.to_json(full))
    del values["optimizer"]["ema"], values["data"]["views"]["image"]["color_jitter"]
    values["data"]["views"] = {"other": values["data"]["views"]["image"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded = config.load_json(tmp_path / "config.json")
    assert loaded.optimizer.ema == full.optimizer.ema
    assert set(loaded.data.views) == {"other"} and loaded.data.views.other.color_jitter == 0.0
    config.check(loaded)


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_load_json_refuses(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        config.load_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("data.workers=3", True),
        ("training.checkpoint.keep=9", True),
        ("mesh.fsdp=2", True),
        ("evaluation.linear.epochs=3", True),
        ("model.remat=full", True),
        ("optimizer.lr=1", False),
        ("data.source=folder:x", False),
        ("training.batch_size=8", False),
        ("seed=1", False),
        ("model.depth=3", False),
    ],
)
def test_fingerprint_changes_with_what_matters_only(good, override, same):
    old, new = config.load(good), config.load(good, [override])
    assert (config.fingerprint(old) == config.fingerprint(new)) is same
    assert config.matters(override.partition("=")[0]) is not same
    assert len(config.diff(old, new)) == 1
    assert len(config.diff(old, new, only_what_matters=True)) == (0 if same else 1)


def test_matters_goes_by_whole_names():
    assert config.matters("model.scanner") and config.matters("data.source") and not config.matters("mesh.data")


def test_diff_lines(good):
    old, new = config.load(good), config.load(good, ["optimizer.lr=0.5", "method.norm_pix=True"])
    assert sorted(config.diff(old, new)) == ["method.norm_pix: (absent) -> True", "optimizer.lr: 0.00015 -> 0.5"]
    assert config.diff(old, old) == []


def test_diff_takes_lists_and_tuples_for_the_same(full):
    assert config.diff(full, changed(data__mean=list(full.data.mean))) == []


def test_to_text_can_be_read_back_as_overrides(good):
    made = config.load(good, ["optimizer.lr=0.5", "data.views.image.size=32,48"])
    lines = [line.replace(" = ", "=", 1).replace("'", "") for line in config.to_text(made).splitlines()]
    assert config.load(good, [line for line in lines if not line.startswith("sharding")]).to_dict() == made.to_dict()
