"""What is built is what is needed: an installed wheel finds its configs and results, and its quickstart works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import mim_jax
from mim_jax import config, shipped
from mim_jax.errors import ConfigError

FREE = {"PYTHONPATH", "PYTEST_CURRENT_TEST", "XLA_FLAGS"}
SMALL = (
    "training.epochs=1",
    "training.batch_size=128",
    "optimizer.warmup_epochs=1",
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "method.decoder_width=16",
    "method.decoder_depth=1",
    "evaluation.linear.epochs=11",
)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in FREE}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ".", cwd=root)
    return folder


@pytest.fixture(scope="module")
def shared_files(root) -> set[str]:
    found = {path.relative_to(root).as_posix() for path in root.glob("configs/*/*.py")}
    return found | {path.relative_to(root).as_posix() for path in root.glob("results/*.json")}


def test_the_wheel_holds_all_modules_configs_and_results(root, built, shared_files):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(root).as_posix() for path in root.glob("mim_jax/**/*.py")}
    assert names == modules | {f"mim_jax/shipped/{name}" for name in shared_files}


def test_the_sdist_holds_what_the_wheel_is_made_of(built, shared_files):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", *shared_files} <= names


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The Python of a fresh environment that holds the wheel, and sees the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
        next(built.glob("*.whl")), cwd=folder)  # fmt: skip
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # After the environment's own folder, so what the wheel brought comes first.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_installed_package_finds_its_configs_from_anywhere(installed, shared_files, tmp_path):
    code = "import json, mim_jax, mim_jax.shipped as s; print(json.dumps([mim_jax.__file__, s.config_names()]))"
    where, names = json.loads(run(installed, "-c", code, cwd=tmp_path))
    assert Path(where).is_relative_to(installed.parents[1])
    assert set(names) == {name for name in shared_files if name.startswith("configs/")}
    command = installed.parent / "mim-jax"
    shown = [run(command, "config", "show", spec, cwd=tmp_path) for spec in ("configs/mae/cifar10.py", "mae/cifar10")]
    assert shown[0] == shown[1] and "method.name = 'mae'" in shown[0]
    code = "import json, mim_jax.shipped as s; print(json.loads((s.folder('results') / 'mae.json').read_text()).keys())"
    assert "published" in run(installed, "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_quickstart_works_from_an_empty_folder(installed, tmp_path):
    small = [f"--config.{key}" for key in SMALL]
    said = run(installed.parent / "mim-jax", "quickstart", *small, cwd=tmp_path)
    workdir = tmp_path / "runs" / "quickstart-1"
    assert "Done in" in said and (workdir / "index.html").is_file() and list((workdir / "pictures").glob("show_*.png"))
    assert {found["protocol"] for found in json.loads((workdir / "eval.json").read_text())} == {"knn", "linear"}


def test_the_version_is_told_the_same_everywhere(root):
    assert re.search(rf"^version: {re.escape(mim_jax.__version__)}$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    assert f"\n## {mim_jax.__version__}" in (root / "CHANGELOG.md").read_text()


# ---- the finder


def test_the_working_directory_comes_before_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert config.load("mae/digits").method.name == "mae"  # of the package
    for name in ("mine", "configs/mae/digits"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from mim_jax import recipes\n\ndef get_config(arg=None):\n    return recipes.pretrain()\n")
    for spec in ("mine", "mine.py", "./mine.py", "mae/digits", "configs/mae/digits.py", "configs/mae/digits"):
        assert len(config.load(spec).method) == 0, spec  # of the folder


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [("mae/cifar", "configs/mae/cifar10.py"), ("configs/mea/digits.py", "configs/mae/digits.py"), ("./no.py", "")],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(monkeypatch, tmp_path, spec, nearest):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"there is no config file {spec}; the nearest is .*{nearest}"):
        config.load(spec)


def test_a_path_that_begins_with_a_dot_is_never_the_packages(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shipped.find_config("./configs/mae/digits.py") == "./configs/mae/digits.py"
    with pytest.raises(ConfigError):
        config.load("./configs/mae/digits.py")
