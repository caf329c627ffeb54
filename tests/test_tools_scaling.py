"""The figures of docs/scaling.md: how programs are read, and the model; nothing is compiled or measured here."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from mim_jax.errors import ConfigError
from mim_jax.training.hardware import CHIPS


@pytest.fixture(scope="module")
def tool(root):
    def load(name):
        spec = importlib.util.spec_from_file_location(f"bench_{name}", root / "tools/bench" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        before = list(sys.path)
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path[:] = before
        return module

    return load


@pytest.fixture(scope="module")
def scaling(tool):
    return tool("scaling")


@pytest.fixture(scope="module")
def model(tool):
    return tool("scaling_model")


def test_a_mesh_as_overrides(scaling):
    assert scaling.mesh_overrides("data=16,fsdp=4") == ["mesh.data=16", "mesh.fsdp=4", "mesh.tensor=1"]
    for wrong in ("rows=4", "data=all", "data"):
        with pytest.raises(ConfigError, match="give sizes of"):
            scaling.mesh_overrides(wrong)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        (", replica_groups=[16,8]<=[128]T(1,0), use_global_device_ids=true", 8),
        (", replica_groups={{0,1,2},{3,4,5}}, to_apply=%add", 3),
        (", replica_groups={}, to_apply=%add", 128),
    ],
)
def test_groups_of_a_collective(scaling, attributes, size):
    assert scaling.group_size(attributes, 128) == size


def test_collectives_are_read_with_type_and_overlap(scaling):
    text = """
HloModule step

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[64,4]{1,0} all-gather(%a), replica_groups=[4,8]<=[32], dimensions={0}
  %c = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-reduce-start(%a), replica_groups={}
  %d = f32[8,4]{1,0} all-reduce-done(%c)
}
"""
    rows = scaling.exchanges(type("Compiled", (), {"as_text": lambda self: text})(), 32)
    gather, reduce = rows
    assert (gather["kind"], gather["dtype"], gather["group"], gather["bytes"]) == ("all-gather", "bf16", 8, 512)
    assert gather["largest"] == [64, 4] and not gather["asynchronous"]
    assert (reduce["kind"], reduce["group"], reduce["bytes"], reduce["asynchronous"]) == ("all-reduce", 32, 128, True)


def test_rows_as_a_table(scaling):
    row = {"system": "mae", "topology": "v5e:2x2", "mesh": "data=4", "parameters": 1e6, "state_bytes": 12e6}
    row |= {"state_bytes_per_chip": 12e6, "memory": {"total": 2e7}, "readable": True}
    row["exchange"] = [{"kind": "all-reduce", "dtype": "bf16", "bytes": 2e6}]
    assert "| mae | v5e:2x2 | data=4 | 1.0 M | 12 | 12.0 | 20 | all-reduce bf16 2.0 |" in scaling.table([row])
    assert "too large" in scaling.table([row | {"error": "no", "exchange": []}])


def test_an_exchange_takes_longer_on_more_chips_and_beyond_a_slice(model):
    times = [model.exchange_seconds(CHIPS["v5e"], chips, 1e8) for chips in (4, 16, 256, 512)]
    assert times == sorted(times) and times[0] > 0
    # 2 (n - 1) / n of the bytes over the links, and the hops
    assert model.exchange_seconds(CHIPS["v5e"], 256, 2e11) == pytest.approx(2 * 255 / 256, rel=1e-3)
    assert times[3] - times[2] == pytest.approx(1e8 / 256 / 3.125e9)
    assert model.exchange_seconds(CHIPS["v4"], 8192, 1e8) is None  # beyond the largest slice, nothing is published


def test_efficiency_with_and_without_overlap(model):
    found = model.efficiencies(alone=3.0, moved=1.0)
    assert found["after"] == 0.75 and found["beside"] == 1.0
    assert model.efficiencies(3.0, 3.0)["beside"] == 0.75  # one second of it sticks out of the backward part's two


def test_what_a_pod_reads(model, monkeypatch, capsys):
    words = ["scaling_model.py", "input", "--chips", "8", "--per-chip-rate", "100", "--images", "1e6"]
    monkeypatch.setattr(sys, "argv", [*words, "--bytes-per-image", "1e5", "--images-per-core", "50"])
    assert model.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_per_second"] == 8e7 and found["cores_per_host"] == 8.0 and found["stored_bytes"] == 1e11
