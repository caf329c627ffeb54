"""What all families of transformers share: their loader, what their models say, files beside the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.case import read_json
from mim_jax.interop.format import CannotRun, Probe
from mim_jax.interop.source import Source
from mim_jax.interop.torch_side import module
from mim_jax.models.vit_config import VitConfig

# What a class with a head has after its encoder, read as an encoder alone.
HEADS = {r"^(classifier|decoder|lm_head)\.": "comes after the encoder"}


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


def vit_sizes(source: Source) -> dict[str, Any]:
    """The sizes of a vision transformer as keys of the section `model`.

    Raises:
        DataError: a size that config.json lacks, or another activation.
    """
    gelu_alone(source)
    need(source, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    c = source.config
    return dict(
        image_size=side(c.get("image_size", 224)),
        patch_size=side(c.get("patch_size", 16)),
        channels=c.get("num_channels", 3),
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        mlp_ratio=mlp_ratio(c["intermediate_size"], c["hidden_size"]),
        layer_norm_eps=c.get("layer_norm_eps", 1e-12),
    )


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio r for which int(width * r) is the width of the perceptron, rounding included (6144 for 1408)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def vit_config(c: VitConfig, model_type: str, name: str) -> dict[str, Any]:
    """Inverse of `vit_sizes`: config.json of a class.

    Raises:
        ConfigError: images or patches that are no squares.
    """
    return {
        "architectures": [name],
        "model_type": model_type,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": int(c.width * c.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": c.layer_norm_eps,
        "image_size": square(c.image_size, "model.image_size"),
        "patch_size": square(c.patch_size, "model.patch_size"),
        "num_channels": c.channels,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }


def final_norm(method: Any) -> bool:
    """Whether the encoder ends with a norm: not where a head brings its own (MaskFeat, fine-tuning with the mean)."""
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    return "norm" in method.encoder_params(shapes.params, shapes.extra)


def prefix_of(names: Collection[str], prefix: str) -> str:
    """`prefix` where the arrays have it, as an encoder inside a class with a head has; else ''."""
    return prefix if any(name.startswith(prefix) for name in names) else ""


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
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"transformers cannot load {source.path}: {reason}; save it anew by save_pretrained") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            raise DataError(
                f"transformers reports {what.replace('_', ' ')} in {source.path}: {sorted(report[what])[:3]}; "
                "save it anew by save_pretrained"
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
    found = {f"block {i}": as_tokens(states) for i, states in enumerate(output.hidden_states) if i}
    for ours, theirs in (("tokens", "last_hidden_state"), ("logits", "logits")):
        if getattr(output, theirs, None) is not None:
            found[ours] = as_tokens(getattr(output, theirs))
    return found


def as_tokens(states: Any) -> np.ndarray:
    """A tensor as an array; maps (B, D, H, W) as tokens (B, N, D)."""
    return (states.flatten(2).transpose(1, 2) if states.ndim == 4 else states).numpy()


@contextlib.contextmanager
def watched(modules: Iterable[Any]) -> Iterator[dict[str, np.ndarray]]:
    """What each of their modules returns while the context lasts, as 'block 1', ...; for models that do not tell."""
    found: dict[str, np.ndarray] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: Any, __: Any, output: Any) -> None:
            found[name] = as_tokens(output[0] if isinstance(output, tuple) else output)

        return keep

    handles = [m.register_forward_hook(hook(f"block {i}")) for i, m in enumerate(modules, start=1)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def probe(name: str, **inputs: Any) -> Callable[[Source], Probe]:
    """`Format.theirs` of a classifier of that class."""

    def theirs(source: Source) -> Probe:
        model = load(source, name)
        return lambda images: named_outputs(call(model, images, **inputs))

    return theirs


def encoder_probe(name: str, **inputs: Any) -> Callable[[Source], Probe]:
    """`Format.theirs` of an encoder of that class, alone or in the class with a head that the source names."""

    def theirs(source: Source) -> Probe:
        model = load(source, architecture(source) or name).base_model
        return lambda images: named_outputs(call(model, images, **inputs))

    return theirs


def crop(source: Source) -> tuple[int, int]:
    """(height, width) of the images, for models whose config need not say it: of their preprocessor, else 224."""
    size = source.config.get("image_size") or preprocessor(source).get("size", 224)
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge", 224)
    return side(size)


def preprocessor(source: Source) -> Mapping[str, Any]:
    """The content of preprocessor_config.json, {} where there is none."""
    path: Path = source.folder / "preprocessor_config.json"
    return read_json(path) if source.path.is_dir() and path.exists() else {}


def pixels(source: Source) -> dict[str, Any]:
    """The `data` settings that preprocessor_config.json gives: mean and deviation of the pixels."""
    found = preprocessor(source)
    keys = {"mean": "image_mean", "std": "image_std"}
    return {ours: tuple(map(float, found[theirs])) for ours, theirs in keys.items() if theirs in found}
