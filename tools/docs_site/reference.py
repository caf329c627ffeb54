"""The pages of the API reference: one for each package, all of it from docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# What others build on; commands are told by their --help, and the conversions file by file in docs/weights.md.
PACKAGES = {
    "methods": "The contract of a method, and the systems",
    "masking": "What is hidden",
    "targets": "What is predicted",
    "losses": "How the error is measured",
    "models": "Networks",
    "nn": "Layers",
    "data": "Images",
    "training": "The loop",
    "evaluation": "What an encoder is worth",
    "measures": "Measures of representations",
    "report": "Pictures and pages",
    "results": "Rows of results",
}
SINGLE = {"configs": "Configs", "runs": "Runs"}
MODULES = {
    "configs": ("config", "recipes", "shipped", "errors"),
    "runs": ("pretrain", "stages"),
}


def navigation(root: Path) -> list:
    """The pages in order."""
    return [{"Overview": "api/index.md"}, *({name: f"api/{name}.md"} for name in (*SINGLE, *PACKAGES))]


def pages(root: Path) -> dict[str, str]:
    """{where: text} of all pages."""
    made = {f"api/{name}.md": _page(SINGLE[name], [f"mim_jax.{m}" for m in MODULES[name]]) for name in SINGLE}
    for name, title in PACKAGES.items():
        made[f"api/{name}.md"] = _page(title, list(_modules(root, name)))
    lines = [f"- [`mim_jax.{name}`]({name}.md): {title}" for name, title in PACKAGES.items()]
    others = [f"- [{SINGLE[name]}]({name}.md): {', '.join(f'`mim_jax.{m}`' for m in MODULES[name])}" for name in SINGLE]
    text = 'Everything below is read from the docstrings. Shapes stand in the annotations: `Float[Array, "B N D"]`.'
    made["api/index.md"] = "\n".join(["# API", "", text, "", *others, *lines, ""])
    return made


def _page(title: str, modules: list[str]) -> str:
    return "\n\n".join([f"# {title}", *(f"::: {name}" for name in modules)]) + "\n"


def _modules(root: Path, package: str) -> Iterator[str]:
    """The modules of a package that have something public to say, by name."""
    folder = root / "mim_jax" / package
    for path in sorted(folder.rglob("*.py")):
        body = ast.parse(path.read_text()).body
        public = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
        if any(ast.get_docstring(node) for node in public):
            name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            yield name.removesuffix(".__init__")
