"""What all families of transformers share: their loader, what their models say, files beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.format import CannotRun, Probe
from mim_jax.interop.source import Source
from mim_jax.interop.torch_side import module


def architecture(source: Source) -> str:
    """The class that a folder's config.json names, '' where it names none."""
    return str((source.config.get("architectures") or [""])[0])


def is_class(*names: str) -> Callable[[Source], bool]:
    """A test of sources: the class that their config names is one of these."""
    return lambda source: architecture(source) in names


def need(source: Source, *keys: str) -> None:
    """Raises DataError for the first key that config.json lacks."""
    for key in keys:
        if key not in source.config:
            raise DataError(f"{source.folder / 'config.json'} has no '{key}', which the model needs")


def gelu_alone(source: Source) -> None:
    """Raises DataError where the perceptrons have another activation than the exact GELU, the only one of ours."""
    act = source.config.get("hidden_act", "gelu")
    if act != "gelu":
        raise DataError(f"{source.folder / 'config.json'}: hidden_act '{act}' is not supported, only 'gelu'")


def square(size: tuple[int, int], key: str) -> int:
    """One side; transformers' configs know squares alone.

    Raises:
        ConfigError: a rectangle.
    """
    if size[0] != size[1]:
        raise ConfigError(f"{key} {size} is no square, which transformers' config needs")
    return size[0]


def side(size: Any) -> tuple[int, int]:
    """(height, width) of a size that their config gives once or twice."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def classes(source: Source, head: str = "classifier.weight") -> int:
    """How many classes a classifier's head has.

    Raises:
        DataError: the source has no such array.
    """
    if head not in source.arrays:
        raise DataError(f"{source.path} has no '{head}', so it is no classifier")
    return len(source.arrays[head])


def labels(method: Any) -> dict[str, Any]:
    """The classes of a fine-tuned run, which their config counts by names."""
    count = getattr(method, "classes", 0)
    names = [f"class {i}" for i in range(count)]
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if count else {}


def load(source: Source, name: str) -> Any:
    """Their model of a folder, by their own loader; nothing may be missing, left over or new.

    Raises:
        CannotRun: torch or transformers is missing, or the source is a bare file.
        DataError: what their loader reports.
    """
    torch, transformers = module("torch"), module("transformers")
    transformers.utils.logging.disable_progress_bar()
    if not source.path.is_dir():
        raise CannotRun(f"{source.path} is a file, and transformers loads folders with a config.json")
    try:
        # Eager attention also tells what each block says, and is float32 throughout.
        model, report = getattr(transformers, name).from_pretrained(
            source.path, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
    except Exception as error:  # of their loader, whatever it raises
        raise DataError(f"transformers cannot load {source.path}: {(str(error).splitlines() or [''])[0]}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            raise DataError(
                f"transformers reports {what.replace('_', ' ')} in {source.path}: {sorted(report[what])[:3]}"
            )
    return model.eval()


def call(model: Any, images: np.ndarray, **inputs: Any) -> Any:
    """Their outputs for images (B, H, W, C), hidden states included, without gradients."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return model(pixel_values=pixels, output_hidden_states=True, **inputs)


def named_outputs(output: Any) -> dict[str, np.ndarray]:
    """Blocks, tokens and logits under the names of `format.tokens_of` and `logits_of`."""
    found = {f"block {i}": states.numpy() for i, states in enumerate(output.hidden_states) if i}
    for ours, theirs in (("tokens", "last_hidden_state"), ("logits", "logits")):
        if getattr(output, theirs, None) is not None:
            found[ours] = getattr(output, theirs).numpy()
    return found


def probe(name: str, **inputs: Any) -> Callable[[Source], Probe]:
    """`Format.theirs` of an encoder or a classifier of that class."""

    def theirs(source: Source) -> Probe:
        model = load(source, name)
        return lambda images: named_outputs(call(model, images, **inputs))

    return theirs


def pixels(source: Source) -> Mapping[str, Any]:
    """The `data` settings that preprocessor_config.json gives: mean and deviation of the pixels."""
    from mim_jax.interop.case import read_json

    path: Path = source.folder / "preprocessor_config.json"
    if not source.path.is_dir() or not path.exists():
        return {}
    found = read_json(path)
    keys = {"mean": "image_mean", "std": "image_std"}
    return {ours: tuple(map(float, found[theirs])) for ours, theirs in keys.items() if theirs in found}
