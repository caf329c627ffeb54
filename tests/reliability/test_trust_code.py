"""No line of the project runs what it reads: a walk over every file, with the exceptions and their reasons."""

from __future__ import annotations

import ast

import pytest

# (file, what is called) -> why it may be.
ALLOWED = {
    ("mim_jax/config.py", "exec"): "the config .py that the user names on the command line is the user's own program",
    ("mim_jax/config.py", "compile"): "the same file, so that the sentence about an error in it can name its line",
    ("mim_jax/config.py", "importlib.util.spec_from_file_location"): "the same file",
    ("mim_jax/interop/torch_side.py", "importlib.import_module"): "torch and what is loaded beside it, by our names",
    ("mim_jax/interop/portable/onnx.py", "importlib.import_module"): "onnx and its like, by our names",
    ("mim_jax/interop/system.py", "importlib.import_module"): "modules of our own package, found in it",
    ("mim_jax/interop/format.py", "importlib.import_module"): "modules of our own package, found in it",
    ("mim_jax/methods/registry.py", "importlib.import_module"): "the registry's own table",
    ("mim_jax/evaluation/registry.py", "importlib.import_module"): "the registry's own table",
    ("mim_jax/data/__init__.py", "importlib.import_module"): "the package's own table",
    ("mim_jax/data/sources/__init__.py", "importlib.import_module"): "a scheme that is one of SCHEMES",
}
NEVER = (
    *("eval", "exec", "compile", "__import__", "breakpoint", "tempfile.mktemp"),
    *("importlib.import_module", "importlib.util.spec_from_file_location", "runpy.run_path", "runpy.run_module"),
    *("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load"),
    *("shutil.unpack_archive", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
)
MODULES = ("pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle", "pty", "telnetlib", "xmlrpc")
EXTRACTING = ("extract", "extractall")  # of tarfile and zipfile: names in an archive may lead anywhere
PREFIXES = ("os.spawn", "os.exec", "os.posix_spawn")


def files(root):
    return sorted(path for folder in ("mim_jax", "tools") for path in (root / folder).rglob("*.py"))


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                (alias.asname or alias.name.split(".")[0]): (alias.name if alias.asname else alias.name.split(".")[0])
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
    return found


def keyword(call: ast.Call, name: str):
    value = next((word.value for word in call.keywords if word.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


def offences(source: str, name: str) -> list[str]:
    """What a file calls that may run what it is given."""
    tree = ast.parse(source)
    names, found = imported(tree), []
    for target in names.values():
        if target.split(".")[0] in MODULES:
            found.append(target)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, names)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called in NEVER or called.startswith(PREFIXES) or (method in EXTRACTING and not called.startswith("self.")):
            found.append(called or method)
        if any(word.arg == "shell" for word in node.keywords):
            found.append(f"{called}(shell=)")
        if called.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            found.append(f"{called} of one text")
        if called in ("numpy.load", "numpy.save", "numpy.lib.format.read_array") and keyword(
            node, "allow_pickle"
        ) not in (None, False):
            found.append(f"{called}(allow_pickle=)")
        if called == "torch.load" and keyword(node, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
    return [each for each in found if (name, each) not in ALLOWED]


def test_nothing_that_is_read_is_run(root, fault):
    found = {
        str(path.relative_to(root)): offences(path.read_text(), str(path.relative_to(root))) for path in files(root)
    }
    bad = {name: each for name, each in found.items() if each}
    fault(
        "a line of the project that runs what it reads",
        tried=len(found),
        survived=len(found) - len(bad),
        lost="nothing",
    )
    assert bad == {}
    assert len(found) > 200


def test_exceptions_are_still_needed(root):
    for name, called in ALLOWED:
        tree = ast.parse((root / name).read_text())
        names = imported(tree)
        assert called in [dotted(node.func, names) for node in ast.walk(tree) if isinstance(node, ast.Call)], (
            name,
            called,
        )


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import os; os.system(text)",
        "from os import system as run; run(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import subprocess as s; s.run(f'ls {text}')",
        "eval(text)",
        "import yaml; yaml.load(text)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import numpy as np; np.load(path, allow_pickle=flag)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import tarfile; tarfile.open(path).extractall(folder)",
        "import importlib; importlib.import_module(name)",
        "import os; os.execvp(name, words)",
    ],
)
def test_the_walk_sees(line):
    assert offences(line, "x.py")
