"""Models of timm as Python has them: what their modules say of a source, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import einops
import numpy as np

from mim_jax.errors import ConfigError, DataError, nearest
from mim_jax.interop.format import CannotRun, Format, Probe
from mim_jax.interop.source import Source
from mim_jax.interop.timm.common import PASSIVE, STORED_TABLES, TOKENS, Family, named
from mim_jax.interop.torch_side import module

OTHER = "docs/weights.md says which models are taken"


def facts(source: Source, family: Family) -> dict[str, Any]:
    """All that a source says about its model: the constructor's arguments, `num_classes`, `norm_eps`, `pixels`.

    From the model itself, built without memory for its arrays, where timm is installed; else from config.json, which
    only a config that names everything allows, as exports do.

    Raises:
        DataError: no name of a model, an unknown one, or layers that ours do not have.
    """
    if not named(source):
        raise DataError(
            f"{source.path} does not say which model of timm it is (there is no config.json with an 'architecture'); "
            f"name it with --model"
        )
    config = source.folder / "config.json"
    if source.given and named(source).partition(".")[0] != source.given.partition(".")[0]:
        raise DataError(f"{config} says that the model is '{named(source)}', not '{source.given}'; leave --model out")
    try:
        model = outline(source, family)
    except CannotRun as error:
        return _written(source, family, str(error))
    _check_layers(source, model, family)
    try:
        found = family.facts(model)
    except DataError as error:
        raise DataError(f"{source.path}: {named(source)} {error}; {OTHER}") from error
    except ConfigError as error:
        raise DataError(f"{source.path}: {named(source)} is not supported: {error}; {OTHER}") from error
    pixels = {key: tuple(map(float, model.pretrained_cfg[key])) for key in ("mean", "std")}
    return {"norm_eps": _epsilon(source, model), **found, "num_classes": classes(source, family), "pixels": pixels}


def outline(source: Source, family: Family) -> Any:
    """The model of a source with shapes for arrays.

    Raises:
        CannotRun: timm is missing. DataError: what timm says against building it.
    """
    torch, timm = module("torch"), module("timm")
    with torch.device("meta"):
        return _created(source, family, timm)


def load(source: Source, family: Family) -> Any:
    """Their model with the arrays of a source, by timm's own loader; nothing missing, left over or changed.

    Raises:
        CannotRun: torch or timm is missing. DataError: what the loader says, or does to the arrays.
    """
    torch, timm = module("torch"), module("timm")
    state = {
        name: torch.from_numpy(np.array(x)) for name, x in source.state().items() if not STORED_TABLES.search(name)
    }
    whole = "architecture" in source.config
    model = _created(source, family, timm, pretrained=whole)
    if not whole:
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise DataError(f"timm cannot load {source.path}: {_told(error)}; name its model by --model") from error
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # which files may lack
    wrong = sorted((set(own) ^ set(state)) - counters) or [
        name for name in state if not torch.equal(own[name], state[name])
    ]
    if wrong:
        raise DataError(
            f"timm loads {source.path} as something else: '{wrong[0]}' is not as in the file; fetch it "
            "anew, or name its model by --model"
        )
    return model.eval()


def _created(source: Source, family: Family, timm: Any, pretrained: bool = False) -> Any:
    name = named(source)
    # A tag after a dot says whose weights are meant, not which model.
    if not timm.is_model(name.partition(".")[0]):
        raise DataError(f"{source.path}: '{name}' is no model of timm{nearest(name, timm.list_models())}")
    try:
        if "architecture" in source.config:
            return timm.create_model(f"local-dir:{source.folder}", pretrained=pretrained)
        return timm.create_model(
            name, pretrained=False, num_classes=classes(source, family), in_chans=_channels(source, family)
        )
    except DataError:
        raise
    except Exception as error:  # of their constructors and their loader, whatever they raise
        raise DataError(f"timm cannot build {name} for {source.path}: {_told(error)}; name another model") from error


def _told(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:240] or type(error).__name__


def classes(source: Source, family: Family) -> int:
    """Rows of the classifier, 0 without one."""
    return len(source.state().get(f"{family.head}.weight", ()))


def _channels(source: Source, family: Family) -> int:
    weight = source.state().get(f"{family.stem}.weight")
    if weight is None or weight.ndim != 4:
        raise DataError(f"{source.path} has no '{family.stem}.weight' of four axes, so it is no {family.name}")
    return int(weight.shape[1])


def _check_layers(source: Source, model: Any, family: Family) -> None:
    """Refuses a model with layers of classes that we do not know: another activation, another norm, another block."""
    known = family.layers | PASSIVE | {family.name}
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if kind not in known or getattr(layer, "approximate", "none") != "none":
            where = f"its layer '{name}'" if name else "it"
            raise DataError(f"{source.path}: {named(source)} is not supported: {where} is of the class {kind}; {OTHER}")


def _epsilon(source: Source, model: Any) -> float:
    """Of the layer norms, which all have the same; 0 where there are none."""
    found = {layer.eps for layer in model.modules() if type(layer).__name__.startswith("LayerNorm")}
    if len(found) > 1:
        raise DataError(f"{source.path}: {named(source)} has layer norms with different epsilons, {sorted(found)}")
    return float(found.pop()) if found else 0.0


def _written(source: Source, family: Family, reason: str) -> dict[str, Any]:
    """The facts as config.json has them."""
    config, name = source.folder / "config.json", named(source)
    arguments = source.config.get("model_args") or {}
    lacking = [key for key in family.arguments if key not in arguments]
    if name not in family.exported or lacking:
        what = f"'{lacking[0]}' in its model_args" if lacking else f"all about '{name}'"
        raise DataError(f"{reason}, and {config} does not say {what}; install timm, which knows the model")
    cfg = source.config.get("pretrained_cfg") or {}
    pixels = {key: tuple(map(float, cfg[key])) for key in ("mean", "std") if key in cfg}
    eps, size = family.exported[name], {"input_size": cfg["input_size"]} if "input_size" in cfg else {}
    return {**size, **arguments, "norm_eps": eps, "num_classes": classes(source, family), "pixels": pixels}


def probe(family: Family) -> Callable[[Source], Probe]:
    """`Format.theirs`: every block's output, the tokens at the end, and the logits where there is a classifier."""

    def theirs(source: Source) -> Probe:
        torch, model = module("torch"), load(source, family)

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            found: dict[str, Any] = {}

            def keep(name: str) -> Callable[..., None]:
                return lambda layer, inputs, output: found.update({name: output.detach().clone()})

            names = family.blocks(model)
            hooks = [model.get_submodule(n).register_forward_hook(keep(f"block {i + 1}")) for i, n in enumerate(names)]
            x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            with torch.no_grad():
                found["tokens"] = features = model.forward_features(x)
                logits = {"logits": model.forward_head(features).numpy()} if model.num_classes else {}
            for hook in hooks:
                hook.remove()
            tokens = {n: einops.rearrange(value.numpy(), TOKENS[family.channels]) for n, value in found.items()}
            return {n: _without_registers(model, value) for n, value in tokens.items()} | logits

        return run

    return theirs


def _without_registers(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Tokens as ours show them; registers stand behind the class token."""
    count = getattr(model, "num_reg_tokens", 0)
    first = getattr(model, "num_prefix_tokens", 0) - count
    return np.delete(tokens, range(first, first + count), axis=1)


def both_parts(
    family: Family,
    *,
    settings: Callable[[bool], Any],
    refusal: Callable[[Any], str],
    layout: Callable[[bool], Any],
    config: Callable[[bool], Any],
    encoder: Mapping[str, Any] | None = None,
    **both: Any,
) -> tuple[Format, Format]:
    """The formats of a family's encoder and classifier. settings, layout, config: whether with a classifier -> field of
    the format; encoder: fields of the encoder's format alone; both: of either."""

    def part(classifier: bool) -> Format:
        fields = dict(theirs=probe(family)) | both | ({} if classifier else dict(encoder or {}))
        return Format(
            family.name,
            "classifier" if classifier else "encoder",
            accepts=family.holds_classifier if classifier else family.holds,
            settings=settings(classifier),
            refusal=refusal,
            layout=layout(classifier),
            config=config(classifier),
            **fields,
        )

    return part(False), part(True)
