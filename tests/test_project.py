"""The project's own rules: packaging, pins, imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest

import mim_jax

PINS = ("py311", "py312")


@pytest.fixture(scope="module")
def pyproject(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


def pins(root, name: str) -> dict[str, str]:
    lines = (line for line in (root / "constraints" / f"{name}.txt").read_text().splitlines() if line[:1] not in "#")
    return dict((_canonical(name), version) for name, version in (line.split("==") for line in lines if line))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


@pytest.mark.parametrize("python", PINS)
def test_what_is_pinned_is_what_is_required(root, pyproject, python):
    pinned = pins(root, python)
    required = [*pyproject["project"]["dependencies"], *pyproject["project"]["optional-dependencies"]["dev"]]
    for line in required:
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+])?>=([\d.]+)", line).groups()
        assert _release(pinned[_canonical(name)]) >= _release(bound), line


def test_the_oldest_pins_are_the_lower_bounds(root, pyproject):
    """The bounds are called tested; the versions that the suite runs with on Python 3.11 are what was tested."""
    pinned = pins(root, "py311")
    for line in pyproject["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+])?>=([\d.]+)", line).groups()
        bound = _release(bound)
        assert _release(pinned[_canonical(name)])[: min(2, len(bound))] == bound[:2], line


@pytest.mark.parametrize("name", [*PINS, "interop"])
def test_pins_name_no_place(root, name):
    text = (root / "constraints" / f"{name}.txt").read_text()
    assert "://" not in text and "@" not in text and "--" not in text


def test_version_licence_and_entry_point(root, pyproject):
    assert re.fullmatch(r"\d+\.\d+\.\d+", mim_jax.__version__)
    assert "Apache License" in (root / "LICENSE").read_text()[:200]
    module, _, function = pyproject["project"]["scripts"]["mim-jax"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_everything_imports_without_torch_and_without_tensorflow():
    _run("""
import pkgutil, sys
for name in ("torch", "transformers", "timm", "datasets", "wandb", "tensorflow"):
    sys.modules[name] = None
import importlib, mim_jax
for module in pkgutil.walk_packages(mim_jax.__path__, "mim_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
""")


def test_the_host_side_of_data_works_without_jax():
    _run("""
import pkgutil, sys
sys.modules["jax"] = sys.modules["jaxlib"] = sys.modules["flax"] = None
import importlib, mim_jax.data
for module in pkgutil.walk_packages(mim_jax.data.__path__, "mim_jax.data."):
    importlib.import_module(module.name)
""")


def test_methods_do_not_import_each_other(root):
    shared = {"base", "registry"}
    for path in (root / "mim_jax" / "methods").glob("*.py"):
        if path.stem in shared:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "mim_jax.methods":
                names = [f"mim_jax.methods.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith("mim_jax.methods."):
                    assert name.split(".")[2] in shared, f"{path.name} imports {name}"


def test_files_stay_small(root):
    """A file does one thing; a method fits its page."""
    for path in root.glob("mim_jax/**/*.py"):
        most = 150 if path.parent.name == "methods" and path.stem not in ("base", "registry") else 400
        assert len(path.read_text().splitlines()) <= most, path


def test_every_library_that_is_imported_is_required(root, pyproject):
    named = {"sklearn": "scikit-learn", "PIL": "pillow", "orbax": "orbax-checkpoint", "absl": "absl-py"}
    groups = [pyproject["project"]["dependencies"], *pyproject["project"]["optional-dependencies"].values()]
    required = {_canonical(re.match(r"[\w.-]+", line)[0]) for group in groups for line in group}
    for path in (*root.glob("mim_jax/**/*.py"), *root.glob("configs/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"mim_jax"}:
                assert _canonical(named.get(name, name)) in required, f"{path} imports {name}"
