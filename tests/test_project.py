"""The project's own rules: packaging, pins, imports."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib

import pytest

import mim_jax
from mim_jax.methods.registry import METHODS

PINS = ("py311", "py312")


@pytest.fixture(scope="module")
def pyproject(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


PARTS = ("", "-dev", "-docs", "-interop", "-torch")


def pins(root, name: str) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==([^ \n;]+)", (root / "constraints" / f"{name}.txt").read_text(), re.MULTILINE)
    return {_canonical(name): version for name, version in lines}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


@pytest.mark.parametrize("python", PINS)
def test_what_is_pinned_is_what_is_required(root, pyproject, python):
    pinned = pins(root, python) | pins(root, f"{python}-dev")
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


LOCKS = ["build", "tools", "torch-cpu", *(python + part for python in PINS for part in PARTS)]


def test_every_lock_file_is_known(root):
    assert sorted(path.stem for path in (root / "constraints").glob("*")) == sorted(LOCKS)


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_place_and_know_every_file_by_its_hash(root, name):
    text = (root / "constraints" / f"{name}.txt").read_text()
    assert "://" not in text and "@" not in text
    packages = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert packages
    for block in packages:
        first, *hashes = block.strip().split(" \\\n")
        assert re.fullmatch(r"[\w.-]+==[\w.+]+( ; [^#@]+)?", first)
        assert hashes and all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", line) for line in hashes), first


@pytest.mark.parametrize("python", PINS)
def test_parts_of_a_lock_do_not_contradict_each_other(root, python):
    parts = [pins(root, python + part) for part in PARTS]
    for one, other in itertools.combinations(parts, 2):
        assert all(other.get(name, version) == version for name, version in one.items())
    assert pins(root, "torch-cpu")["torch"].partition("+")[0] == parts[-1]["torch"]


def test_nothing_is_installed_without_its_hash(root):
    """Every line of the Makefile that calls pip asks for hashes, but for the project itself, which takes nothing."""
    for line in (root / "Makefile").read_text().splitlines():
        if re.search(r"bin/pip install|\$\(BIN\)/pip install", line):
            assert "--require-hashes" in line or "--no-deps --no-build-isolation --no-index --editable ." in line, line


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
class Absent:  # as if they were not installed; None in sys.modules would trip libraries that look there
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "timm", "datasets", "wandb", "tensorflow"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
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


def _imports(path) -> set[str]:
    """The modules that a file imports, anywhere in it; `from a import b` counts as a.b too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_methods_do_not_import_each_other(root):
    """What two methods share lies below them, or in a file of their folder that is no method."""
    methods = {where.partition(":")[0] for where in METHODS.values()}
    for path in (root / "mim_jax" / "methods").glob("*.py"):
        found = _imports(path) & (methods - {f"mim_jax.methods.{path.stem}"})
        assert not found, f"{path.name} imports {found}"


def test_files_stay_small(root):
    """A file does one thing, and a method fits its page."""
    methods = {root / (where.partition(":")[0].replace(".", "/") + ".py") for where in METHODS.values()}
    for path in root.glob("mim_jax/**/*.py"):
        assert len(path.read_text().splitlines()) <= (150 if path in methods else 400), path


def test_every_library_that_is_imported_is_required(root, pyproject):
    named = {"sklearn": "scikit-learn", "PIL": "pillow", "orbax": "orbax-checkpoint", "absl": "absl-py"}
    groups = [pyproject["project"]["dependencies"], *pyproject["project"]["optional-dependencies"].values()]
    required = {_canonical(re.match(r"[\w.-]+", line)[0]) for group in groups for line in group}
    for path in (*root.glob("mim_jax/**/*.py"), *root.glob("configs/**/*.py")):
        for name in {name.partition(".")[0] for name in _imports(path)} - set(sys.stdlib_module_names) - {"mim_jax"}:
            assert _canonical(named.get(name, name)) in required, f"{path} imports {name}"
