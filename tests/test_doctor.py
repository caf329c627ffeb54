"""The doctor: each fault is found and comes with its mend."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from mim_jax import doctor


def test_lower_bounds_are_those_of_the_package_without_its_extras(monkeypatch):
    lines = ["jax>=0.10.2", "etils[epath]>=1.15", "rich", 'torch>=2.13; extra == "interop"', "a_b.c >= 1.2"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert doctor.lower_bounds() == {"jax": "0.10.2", "etils": "1.15", "a_b.c": "1.2"}


@pytest.mark.parametrize(
    ("version", "bound", "old"),
    [
        ("0.9.9", "0.10.2", True),
        ("0.10.2", "0.10.2", False),
        ("0.12.0.1", "0.10.2", False),
        ("2.13.0+cpu", "2.13", False),
    ],
)
def test_library_compares_numbers_not_text(monkeypatch, version, bound, old):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    finding = doctor.library("jax", bound)
    assert bool(finding.fault) is old and version in finding.text
    assert ("pip install 'jax>=0.10.2'" in finding.fault) is old


def test_a_library_that_is_not_there():
    finding = doctor.library("no-such-distribution", "1.0")
    assert finding.text == "not installed" and "pip install 'no-such-distribution>=1.0'" in finding.fault


def test_the_run_directory_is_tried_and_not_created(tmp_path):
    finding = doctor.writable(tmp_path / "runs" / "x")
    assert not finding.fault and str(tmp_path) in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in doctor.writable(tmp_path / "file" / "runs").fault


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert "less than 1 GiB free" in doctor.writable(tmp_path).fault


def test_decoding_is_measured():
    finding = doctor.decoding(seconds=0.01)
    assert not finding.fault and "640 x 427" in finding.text


def test_devices_answer():
    found = list(doctor.devices(timeout=120))
    assert [finding.name for finding in found] == ["devices", "matrix product"]
    assert not any(finding.fault for finding in found) and "cpu" in found[0].text


def test_a_backend_that_hangs():
    (finding,) = doctor.devices(timeout=0.01)
    assert "did not answer in 0.01 s" in finding.fault and "JAX_PLATFORMS=cpu" in finding.fault


def test_a_backend_that_does_not_start(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    (finding,) = doctor.devices(timeout=120)
    assert "JAX_PLATFORMS=abacus asks for a backend that does not start" in finding.fault


@pytest.mark.parametrize("fault", ["", "mend it so"])
def test_the_report_names_the_mend_and_the_verdict(monkeypatch, capsys, fault):
    monkeypatch.setattr(doctor, "examine", lambda *a: iter([doctor.Finding("memory", "1 GiB", fault)]))
    assert doctor.doctor() is (not fault)
    shown = capsys.readouterr().out
    assert "memory" in shown and fault in shown
    assert shown.splitlines()[-1].startswith("1 fault" if fault else "all is well")
