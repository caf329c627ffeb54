"""What comes with the package beside its code, the folders `configs` and `results`, and how a config is found by name.

In a checkout they stand at its root; a wheel holds copies of them below this folder, put there by setup.py.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder `configs` or `results` of the checkout that the package runs from, else the wheel's copy.

    Nothing promises that it is there, or that it can be written to.
    """
    checkout = HERE.parents[1]
    return checkout / name if (checkout / "pyproject.toml").is_file() else HERE / name


def find_config(path: str) -> str:
    """The file that a config's name stands for; the name itself where there is none.

    `configs/mae/cifar10.py` and `mae/cifar10` are the same config, looked for in the working directory first and then
    among those that came with the package. A path that is absolute or begins with a dot is taken as it is.
    """
    if os.path.isfile(path) or os.path.isabs(path) or path.startswith("."):
        return path
    return next((str(found) for found in _candidates(path) if found.is_file()), path)


def _candidates(path: str) -> Iterator[Path]:
    name = path if path.endswith(".py") else f"{path}.py"
    yield Path(name)
    yield Path("configs", name)
    yield folder("configs") / name.removeprefix("configs/")


def nearest_config(path: str) -> str:
    """`; the nearest is configs/mae/cifar10.py`: the config whose name is most like `path`, '' where there is none."""
    known = sorted({*_beside(path), *config_names()})
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]}" if close else ""


def config_names() -> list[str]:
    """The configs that came with the package, `configs/mae/cifar10.py` and so on."""
    here = folder("configs")
    return sorted(f"configs/{path.relative_to(here).as_posix()}" for path in here.glob("*/*.py"))


def _beside(path: str) -> list[str]:
    """The configs below the deepest folder of `path` that exists; the working directory itself is not searched."""
    above = next((parent for parent in Path(path).parents if parent.is_dir()), Path("."))
    return [] if above == Path(".") else [str(p) for p in above.rglob("*.py") if p.name != "__init__.py"]
