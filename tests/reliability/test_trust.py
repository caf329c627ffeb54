"""Files from strangers: weights, arrays, checkpoints, configs, data sets and names that try to run something."""

from __future__ import annotations

import html.parser
import json
import os
import pickle
import struct

import jax
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.data.sources import open_source
from mim_jax.errors import ConfigError, DataError, MimError
from mim_jax.interop.weights import read_weights
from mim_jax.report import pictures, style
from mim_jax.report.page import write_page
from mim_jax.training.checkpoints import Checkpoints

HOSTILE = "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'`$(touch ran)`"


class Trap:
    """Leaves a file `ran` in the working directory where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.fixture(autouse=True)
def never_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap()))
    (tmp_path / "ran").unlink()


def weight_files(folder) -> list[str]:
    """Weights that are, or hold, a pickle that runs something, under every name that is read."""
    payload = pickle.dumps({"w": Trap()})
    for name in ("raw.pth", "raw.bin", "raw.pt", "raw.npz", "raw.npy", "raw.safetensors", "raw.pkl"):
        (folder / name).write_bytes(payload)
    np.savez(folder / "objects.npz", w=np.array([Trap()], dtype=object))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / "lying.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "endless.safetensors").write_bytes(struct.pack("<Q", (1 << 63) - 1) + b"{}")
    return sorted(path.name for path in folder.iterdir())


def test_weights_that_run_something(tmp_path, fault):
    names = weight_files(tmp_path)
    said = {}
    for name in names:
        with pytest.raises(MimError) as caught:
            read_weights(tmp_path / name)
        said[name] = str(caught.value)
    survived = sum(name in said[name] and not (tmp_path / "ran").exists() for name in names)
    fault(
        "weights that are or hold a pickle, or lie about their size",
        tried=len(names),
        survived=survived,
        lost="nothing",
    )
    assert survived == len(names), said


def test_torch_files_that_run_something(tmp_path, fault):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    torch.save({"w": Trap()}, tmp_path / "zip.pth")
    torch.save({"w": Trap()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.bin")
    for name in ("zip.pth", "old.pth", "module.bin"):
        with pytest.raises(MimError, match=name):
            read_weights(tmp_path / name)
    fault("torch files that hold more than tensors", tried=3, survived=3, lost="nothing")


def test_arrays_of_objects(tmp_path, fault):
    np.save(tmp_path / "x.npy", np.array([[[Trap()]]], dtype=object))
    (tmp_path / "photos").mkdir()
    np.save(tmp_path / "photos" / "y.npy", np.array([[[Trap()]]], dtype=object))
    np.save(tmp_path / "z.npy", np.zeros((2, 4, 4), np.uint8))
    np.save(tmp_path / "z_labels.npy", np.array([Trap(), 1], dtype=object))
    for spec in (f"npy:{tmp_path}/x.npy", f"npy:{tmp_path}/z.npy"):
        with pytest.raises(DataError, match="holds Python objects, which are never loaded"):
            open_source(spec)
    from mim_jax.data.decode import decode

    with pytest.raises(DataError, match="holds Python objects"):
        decode((tmp_path / "photos" / "y.npy").read_bytes(), channels=1, dtype=np.dtype(np.uint8))
    fault("arrays of Python objects in the data", tried=3, survived=3, lost="nothing")


def test_notes_in_parquet_files(tmp_path):
    """Arrow once unpickled a note of its own in the schema; class names come from another one."""
    import pyarrow
    from pyarrow import parquet

    image = pyarrow.array([b"\x89PNG"])
    for note in ({}, {"info": {"features": {"label": {"names": [HOSTILE, "b"]}}}}):
        field = pyarrow.field(
            "image",
            image.type,
            metadata={
                "ARROW:extension:name": "arrow.py_extension_type",
                "ARROW:extension:metadata": pickle.dumps(Trap()),
            },
        )
        schema = pyarrow.schema(
            [field, ("label", "int64")], metadata={"huggingface": json.dumps(note), "pandas": "[" * 9000}
        )
        parquet.write_table(pyarrow.table([image, [0]], schema=schema), tmp_path / "x.parquet")
        source = open_source(f"parquet:{tmp_path}/x.parquet")
        assert source[0]["image"] == b"\x89PNG"
        assert source.classes == ((HOSTILE, "b") if note else None)
    deep = b"[" * 100_000
    schema = schema.with_metadata({"huggingface": deep})
    parquet.write_table(pyarrow.table([image, [0]], schema=schema), tmp_path / "x.parquet")
    assert open_source(f"parquet:{tmp_path}/x.parquet").classes is None


def test_prepared_data_sets_import_nothing(tmp_path, monkeypatch, fault):
    """`features.json` names classes, and TensorFlow Datasets imports the modules of those that it does not know."""
    (tmp_path / "stranger.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "data" / "photos" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": "photos", "version": "1.0.0"}))
    inner = {"pythonClassName": "stranger.Feature"}
    hostile = [
        inner,
        {"type": "stranger.Feature", "content": {}},
        {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": {"features": {"image": inner}},
        },
        {"type": "tensorflow_datasets.x", "content": json.dumps(inner), "proto_cls": "x"},
    ]
    for features in hostile:
        (folder / "features.json").write_text(json.dumps(features))
        for spec in (f"tfds:{folder}", f"tfds:photos?data_dir={tmp_path}/data"):
            with pytest.raises(DataError, match=r"asks for the class 'stranger.Feature', which is not TFDS's"):
                open_source(spec)
    (folder / "features.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="features.json' cannot be read"):
        open_source(f"tfds:{folder}")
    fault("prepared data sets that name foreign classes", tried=9, survived=9, lost="nothing")


CONFIGS = {
    "class": {"__class__": "os.system", "__reduce__": ["os.system", ["touch ran"]], "seed": 1},
    "reference": {"data": {"source": "${oc.env:HOME}"}, "seed": "${seed}"},
    "yaml": {"seed": "!!python/object/apply:os.system ['touch ran']"},
    "python": {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch ran"]}]},
    "shell": {"data": {"source": "folder:$(touch ran)`touch ran`;touch ran"}},
    "methods": {"lock": 1, "items": 2, "to_dict": 3, "_fields": {"a": 1}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_configs_are_values_alone(tmp_path, name):
    """Odd keys are refused or stay text: nothing is looked up, expanded or called."""
    values = json.loads(configs.to_json(recipes.pretrain()))
    for key, value in CONFIGS[name].items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) and key == "data" else value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    try:
        config = configs.load(str(path))
        configs.to_text(config)
    except ConfigError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert json.loads(configs.to_json(config)) == values


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"data": {"views": 3}}', '{"data": {"views": {"image": 3}}}', "NaN", "[]"]
)
def test_what_is_no_saved_config_is_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="config.json") as caught:
        configs.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_run_folder_runs_nothing(tmp_path):
    """Programs in a stranger's run are not looked at: its config is the JSON beside them."""
    for name in ("config.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (tmp_path / name).write_text("open('ran', 'w')\n")
    configs.save(recipes.pretrain(), tmp_path / "config.json")
    assert configs.load(str(tmp_path)) == configs.load(str(tmp_path / "config.json"))


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_text_in_a_page_stays_text(tmp_path, fault):
    """In a config value, the name of a class, of a picture, of a protocol, of the folder itself."""
    run = tmp_path / "<script>alert(2)<"
    run.mkdir()
    config = recipes.pretrain()
    config.method.name = "mae"
    config.data.source = f"folder:{HOSTILE}"
    configs.save(config, run / "config.json")
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, f"val_{HOSTILE}": 2.0}) + "\n")
    (run / "resolved.json").write_text(json.dumps({"steps": {"total": 4}, HOSTILE: HOSTILE, "classes": [HOSTILE]}))
    entry = {"protocol": HOSTILE, "feature": HOSTILE, "metrics": {HOSTILE: 0.5}, "baselines": {HOSTILE: {HOSTILE: 0.1}}}
    entry |= {"counts": {"train": HOSTILE, "eval": 1}, "checkpoint": {"step": HOSTILE, "hash": "x"}, "time": HOSTILE}
    entry |= {"command": HOSTILE, "units": {HOSTILE: HOSTILE}}
    (run / "eval.json").write_text(json.dumps([entry]))
    names = ['step_1"><script>alert(3)<.png', "show' onload='alert(4).png", "step_00000002.png"]
    for name in names:
        pictures.save(np.zeros((4, 4, 3), np.uint8), run / "pictures" / name.replace("/", ""))
    text = write_page(run).read_text()
    tags = Tags(text).found
    handlers = [name for _, values in tags for name in values if name.startswith("on")]
    fault(
        "HTML in a config value, a class, a protocol, a picture's and a folder's name",
        tried=5,
        survived=5,
        lost="nothing",
    )
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in tags}
    assert [tag for tag, _ in tags].count("script") == 1 == text.count(f"<script>{style.SLIDER}</script>")
    assert [v["href"] for tag, v in tags if tag == "link"] == ["data:,"]
    assert handlers == []
    assert all(src.startswith(("data:image/webp;", "data:image/svg+xml;")) for _, v in tags if (src := v.get("src")))
    assert "javascript:" not in text


def tiny_state(step: int = 0):
    from flax import struct

    class State(struct.PyTreeNode):
        step: object
        params: object
        opt_state: object
        extra: object
        ema: object
        skipped: object

    value = {"w": jax.numpy.arange(8.0) + step}
    return State(jax.numpy.int32(step), value, value, {}, {}, jax.numpy.int32(0))


def test_checkpoints_with_strange_notes(tmp_path, fault):
    """JSON in a checkpoint is changed wherever a name or a type stands; it is refused, or read as it was."""
    with Checkpoints(tmp_path / "whole") as checkpoints:
        checkpoints.save(1, tiny_state(1), {"epoch": 1})
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tiny_state())
    texts = [path for path in (tmp_path / "whole").rglob("*") if path.is_file() and _json(path) is not None]
    assert len(texts) >= 3
    survived = 0
    import shutil

    for number, path in enumerate(texts):
        if path.name == "digests.json":
            continue
        for change in (_renamed, _classes, lambda value: {"__reduce__": ["os.system", ["touch ran"]]}):
            there = tmp_path / f"changed-{number}"
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(tmp_path / "whole", there)
            (there / path.relative_to(tmp_path / "whole")).write_text(json.dumps(change(_json(path))))
            for digests in there.rglob("digests.json"):
                digests.unlink()  # a stranger's would fit
            before = {each for each in tmp_path.rglob("*") if there not in each.parents}
            try:
                with Checkpoints(there, read_only=True) as checkpoints:
                    got, _, _ = checkpoints.restore(wanted)
                np.testing.assert_array_equal(got.params["w"], np.arange(8.0) + 1)
            except MimError as error:
                assert "\n" not in str(error)
            assert {each for each in tmp_path.rglob("*") if there not in each.parents} == before
            survived += not (tmp_path / "ran").exists()
    tried = 3 * sum(path.name != "digests.json" for path in texts)
    fault("checkpoints with changed notes (names, types, paths)", tried=tried, survived=survived, lost="nothing")
    assert survived == tried


def _json(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _renamed(value):
    """Every key leads elsewhere."""
    if isinstance(value, dict):
        return {f"../../{key}": _renamed(each) for key, each in value.items()}
    return value


def _classes(value):
    """Every text is the name of something that can be called."""
    if isinstance(value, dict):
        return {key: _classes(each) for key, each in value.items()} | {
            "__class__": "os.system",
            "py/object": "os.system",
        }
    if isinstance(value, list):
        return [_classes(each) for each in value]
    return "os.system" if isinstance(value, str) else value
