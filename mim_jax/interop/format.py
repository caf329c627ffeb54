"""What conversion knows of a foreign layout: which models it can hold, the names of the arrays, how the other runs.

A format holds one part of a method: 'encoder' (what evaluation sees, alone), 'classifier' (a fine-tuned encoder with
its head: method finetune) or 'all' (everything that the method trains, and its state). Each family of foreign models
is a file in huggingface/, timm/ or original/ with a tuple FORMATS.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import ConfigError, VerifyError, nearest
from mim_jax.interop import huggingface, original, timm
from mim_jax.interop.name_map import to_ours, to_theirs
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.methods.base import Method, Variables

LIBRARIES: dict[str, ModuleType] = {"hf": huggingface, "timm": timm, "original": original}
PARTS = ("encoder", "classifier", "all")
Arrays = dict[str, np.ndarray]
Settings = Mapping[str, Mapping[str, Any]]
Probe = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class CannotRun(Exception):
    """The other side cannot run here; the message says what is missing. Not a fault: the comparison is left out."""


def nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Format:
    """One foreign layout.

    name: the foreign class, family of models or checkpoint, by which `--as` chooses it.
    part: encoder | classifier | all.
    accepts: whether a source is in this format, by its config and the names of its arrays; must not raise.
    settings: a source -> {'model': ..., 'method': ..., 'data': ...}: what it says about the sizes and switches of our
        config; raises DataError where it says too little or what ours cannot be.
    refusal: a method -> why it cannot be written so, or ''.
    layout: (a method, the names of the arrays that are to be read or () for writing) -> names and shapes. Paths begin
        with `params/encoder/...` and, for the statistics of batch norms, `extra/encoder/...` in an encoder; in the
        other parts they are those of the method's own `params` and `extra`.
    config: a method -> the content of config.json beside the weights.
    theirs: a source -> a function from images (B, H, W, C) to their arrays by name: 'block 1' ..., 'tokens', 'logits'.
        Loads with the library's own loader, strictly. Raises CannotRun where the library is missing.
    ours: (method, variables, images) -> ours under the same names; the default serves encoders and classifiers.
    buffers: (method, the arrays as they will be written) -> further arrays without which their loader is not content.
    nest: the arrays -> what the authors' file holds, for original checkpoints.
    state: a source -> its arrays under the names of the layout; the inverse of `nest`.
    switches: keys of `VitConfig.special` that the layout can hold; a model with another one is refused.
    shows: for files that do not say all, a source -> what its shapes say of keys of a config ('model.width'). Such a
        file needs a config of ours, with which they must agree.
    """

    name: str
    part: str
    accepts: Callable[[Source], bool]
    settings: Callable[[Source], Settings]
    refusal: Callable[[Any], str]
    layout: Callable[[Any, Collection[str]], Layout]
    config: Callable[[Any], dict[str, Any]] = nothing
    theirs: Callable[[Source], Probe] | None = None
    ours: Callable[[Any, Variables, Any], Mapping[str, Any]] | None = None
    buffers: Callable[[Any, Arrays], Arrays] = nothing
    nest: Callable[[Arrays], dict[str, Any]] = lambda arrays: {"model": arrays}
    state: Callable[[Source], Arrays] = Source.state
    switches: tuple[str, ...] = ()
    shows: Callable[[Source], Mapping[str, Any]] | None = None
    # Whose: needed for 'all'; ('finetune',) is understood for a classifier, and every method for an encoder.
    methods: tuple[str, ...] = field(default=())

    def serves(self, method: str) -> bool:
        """Whether a method of that name has this part."""
        if self.part == "encoder" and not self.methods:
            return method not in ("tokenizer",)
        return method in (self.methods or (("finetune",) if self.part == "classifier" else ()))

    def unheld(self, method: Method) -> str:
        """Why the method cannot be written so, or ''; switches that the layout does not know are always a reason."""
        pools_all = getattr(method, "pooling", "") == "all" and getattr(method.model, "cls_token", False)
        if self.part == "classifier" and pools_all:
            return "its head averages the class token too (method.pooling 'all')"
        if self.part == "encoder" and method.image_model is not method.model:
            return "the encoder knows more than images; start a run from it (training.start_from), and export that"
        unknown = [key for key in getattr(method.model, "special", ()) if key not in self.switches]
        return f"it knows no model.{unknown[0]}" if unknown else self.refusal(method)

    def read(self, method: Method, source: Source, like: Variables) -> Variables:
        """The source's arrays as the part of `method`; leaves that it does not have (`absent`) stay as in `like`.

        Raises:
            VerifyError: an array that is missing, not known, of another shape or not finite.
        """
        arrays = self.state(source)
        layout = self.layout(method, arrays)
        for name, table in layout.tables.items():
            _check_table(name, arrays.pop(name, table), np.asarray(table))
        return to_ours(layout.names, arrays, self.part_of(method, like), layout.sizes)

    def write(self, method: Method, variables: Variables) -> Arrays:
        """The part of a method under their names, fixed tables and buffers included."""
        layout = self.layout(method, ())
        found = to_theirs(layout.names, self.part_of(method, variables), layout.sizes)
        found |= {name: np.asarray(array) for name, array in layout.tables.items()}
        found |= self.buffers(method, found)
        return {name: np.asarray(array, order="C") for name, array in found.items()}  # numbers stay numbers

    def part_of(self, method: Method, variables: Variables) -> Variables:
        """`params` and `extra` of this part alone."""
        if self.part != "encoder":
            return Variables(params=variables.params, extra=variables.extra)
        encoder = method.encoder_params(variables.params, variables.extra)
        encoder = {name: leaf for name, leaf in encoder.items() if name != "mask_token"}
        statistics = variables.extra.get(method.encoder_statistics, {}) if method.encoder_statistics else {}
        return Variables(params={"encoder": encoder}, extra={"encoder": statistics} if statistics else {})

    def compute(self, method: Method, variables: Variables, images: np.ndarray) -> Mapping[str, Any]:
        """What we say about images, under the names that `theirs` uses."""
        return (self.ours or (logits_of if self.part == "classifier" else tokens_of))(method, variables, images)


def _check_table(name: str, theirs: Any, ours: np.ndarray) -> None:
    """Refuses a stored array that we compute, and that is another one."""
    theirs = np.asarray(theirs)
    if theirs.shape != ours.shape or np.abs(theirs.astype(np.float64) - ours).max(initial=0.0) > 1e-5:
        raise VerifyError(f"'{name}' of shape {theirs.shape} is not the fixed table of a model of this config")


def classifies(method: Method) -> bool:
    """Whether runs of the method have a classifier of their own (`Method.classifier`)."""
    return type(method).classifier is not Method.classifier


def tokens_of(method: Method, variables: Variables, images: np.ndarray) -> dict[str, Any]:
    """Every block's output and the tokens at the end, class token first where there is one."""
    extra = variables.extra
    run = jax.jit(lambda params, extra, x: method.encode(params, x, extra=extra, layers=True))
    found = run(variables.params, extra, jnp.asarray(images))
    patches = [] if found.cls is None else [found.cls[:, None]]
    tokens = jnp.concatenate([*patches, found.patches], axis=1)
    return {**{f"block {i + 1}": layer for i, layer in enumerate(found.layers)}, "tokens": tokens}


def logits_of(method: Any, variables: Variables, images: np.ndarray) -> dict[str, Any]:
    """Every block's output and the logits of a fine-tuned encoder."""
    run = jax.jit(lambda params, extra, x: method.classify(params, x, extra, layers=True))
    found = run(variables.params, variables.extra, jnp.asarray(images))
    return {**{f"block {i + 1}": layer for i, layer in enumerate(found.layers)}, "logits": found.logits}


def formats(library: str) -> tuple[Format, ...]:
    """All formats of a library, in the order in which they are tried.

    Raises:
        ConfigError: an unknown library.
    """
    if library not in LIBRARIES:
        raise ConfigError(f"'{library}' is no library whose weights are known{nearest(library, LIBRARIES)}")
    package = LIBRARIES[library]
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return tuple(found for module in modules for found in getattr(module, "FORMATS", ()))
