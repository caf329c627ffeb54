"""`mim-jax import`: foreign weights become a run that can be evaluated, fine-tuned, shown or trained further."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.data.check import check as check_data
from mim_jax.errors import ConfigError, DataError, VerifyError, nearest
from mim_jax.interop.format import PARTS, Format, Settings, formats
from mim_jax.interop.imported import config_of, fit_views, fitted, with_encoder, write_run
from mim_jax.interop.proof import TOLERANCE, Proof, prove
from mim_jax.interop.source import Source, read_source
from mim_jax.interop.staging import refuse_existing, staged
from mim_jax.interop.verify import verify_paths
from mim_jax.methods import registry
from mim_jax.methods.base import Method, Variables
from mim_jax.training.checkpoints import params_hash
from mim_jax.training.groups import flat
from mim_jax.training.runs import fresh_variables

Say = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What an import came to. parameters: numbers of the encoder, or of all, that were taken."""

    out: Path
    form: Format
    proof: Proof
    parameters: int


def import_run(
    where: str | Path,
    out: str | Path,
    *,
    library: str,
    method: str,
    part: str = "",
    named: str = "",
    model: str = "",
    config: ConfigDict | None = None,
    overrides: Sequence[str] = (),
    case: str = "",
    tolerance: float = TOLERANCE,
    say: Say = print,
) -> Imported:
    """Writes a run of `method` with the weights in `where` into the new folder `out`, all or nothing.

    library: hf | timm | original. part: encoder | classifier | all; by default the most that the source holds.
    named: the foreign format, where several would fit. model: what the files do not say: the name of a timm model.
    config: a config of ours, for what the source does not say. overrides: `key=value`, applied at the end; another
        image size, patch size or number of channels resizes the weights. case: a reference case that must pass.

    Raises:
        MimError: a source that is damaged, of another architecture or not finite; a difference beyond the tolerance.
    """
    out = Path(out)
    refuse_existing(out)
    registry.method_class(method)
    source = read_source(where, model)
    form = _choose(source, library, method, part, named)
    if form.shows is not None and config is None:
        raise ConfigError(_without_config(form.shows(source), source, method))
    try:
        settings = _for_method(form.settings(source), method, form)
        base = config_of(method, settings, config, [text for text in overrides if not _of_model(text)])
        built = registry.build(base)
        if form.shows is not None:
            _check_shown(form.shows(source), built, source)
        fresh = fresh_variables(base, built)
        found = form.read(built, source, fresh)
    except VerifyError as error:
        raise DataError(
            f"{source.path} does not hold a model of this config as {form.name}: {error}; give a whole file, the "
            "config of its sizes, or another --as"
        ) from error
    variables = fresh.replace(params=found.params, extra=found.extra)
    if form.part == "encoder":
        variables = with_encoder(built, fresh, found)
    proof = _checked(form, source, built, variables, case, tolerance)
    wanted = configs.override(base, [text for text in overrides if _of_model(text)])
    kept = _resized(form, source, built, variables, wanted, say)
    check_data(wanted.data)  # such as a mean for every channel, which only the user may know
    note = _note(source, library, method, form, proof, kept, overrides)
    with staged(out) as folder:
        write_run(folder, wanted, registry.build(wanted), kept, note)
    return Imported(out, form, proof, _count(found))


def _choose(source: Source, library: str, method: str, part: str, named: str) -> Format:
    """The format that a source is in, the one that holds most first."""
    if part and part not in PARTS:
        raise ConfigError(f"--part '{part}' is not one of {', '.join(PARTS)}")
    known = formats(library)
    if named and named not in {form.name for form in known}:
        raise ConfigError(f"--as '{named}' is no format of {library}{nearest(named, (form.name for form in known))}")
    fitting = [form for form in known if (form.name == named if named else form.accepts(source))]
    if not fitting:
        first = ", ".join(list(source.arrays)[:3])
        raise DataError(
            f"{source.path} is in no format of {library} that is known (its first arrays are {first}); "
            f"known: {', '.join(dict.fromkeys(form.name for form in known))}"
        )
    serving = [form for form in fitting if form.serves(method) and part in ("", form.part)]
    if not serving:
        holds = " or ".join(dict.fromkeys(f"{form.name} ({form.part})" for form in fitting))
        asked = f"the part '{part}' of {method}" if part else f"anything of {method}"
        raise DataError(f"{source.path} is {holds}, which does not hold {asked}; give another --method or --part")
    return max(serving, key=lambda form: PARTS.index(form.part))


def _for_method(settings: Settings, method: str, form: Format) -> Settings:
    """Settings that fit the method: fine-tuning has the encoder's final norm only where it pools by the class token.

    The settings of an encoder without that norm say so by the pooling 'mean', which is for fine-tuning alone.
    """
    model, given = settings.get("model", {}), dict(settings.get("method", {}))
    if form.part != "encoder" or "cls_token" not in model:
        return settings
    pooling = given.pop("pooling", "cls")
    if method != "finetune":
        return {**settings, "method": given}
    if pooling == "cls" and not model["cls_token"]:
        raise ConfigError(
            f"{form.name} has no class token, and fine-tuning by the mean of the tokens has no place for its final "
            "norm; import it as another method, such as mae, and fine-tune that run with `mim-jax eval --finetune`"
        )
    return {**settings, "method": {**given, "pooling": pooling}}


def _checked(form: Format, source: Source, method: Method, variables: Variables, case: str, tolerance: float) -> Proof:
    proof = prove(form, source, method, variables, tolerance)
    proof.refuse(str(source.path))
    if case and not verify_paths([case]):
        raise VerifyError(f"the reference case {case} does not pass, so nothing was written")
    return proof


def _without_config(shown: Mapping[str, Any], source: Source, method: str) -> str:
    seen = ", ".join(f"{key} {value}" for key, value in shown.items())
    return (
        f"{source.path} does not say all that a model needs, such as its heads, so give --config with the config of "
        f"these weights, such as configs/{method}/imagenet1k.py (their shapes show {seen})"
    )


def _check_shown(shown: Mapping[str, Any], method: Method, source: Source) -> None:
    """Refuses a config that the shapes of the weights contradict."""
    wrong = []
    for key, value in shown.items():
        section, *path = key.split(".")
        start = method.model if section == "model" else method
        ours = functools.reduce(lambda found, name: getattr(found, name, None), path, start)
        if ours != value:
            wrong.append(f"{key} {value}, where the config has {ours}")
    if wrong:
        raise ConfigError(f"the shapes of {source.path} show {'; '.join(wrong)}; give the config of these weights")


def _of_model(override: str) -> bool:
    return override.removeprefix("--").removeprefix("config.").startswith("model.")


def _resized(
    form: Format, source: Source, method: Method, variables: Variables, wanted: ConfigDict, say: Say
) -> Variables:
    """The variables for the model that the user asked for; `wanted` gets images of its size."""
    asked = registry.build(wanted)
    if asked.model == method.model:
        return variables
    fit_views(wanted, asked)
    what = "encoder" if form.part == "encoder" else "all"
    return fitted(str(source.path), method, variables, asked, fresh_variables(wanted, asked), what, say)


def _note(
    source: Source,
    library: str,
    method: str,
    form: Format,
    proof: Proof,
    variables: Variables,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """What import.json says of where the weights came from."""
    return {
        "library": library,
        "format": form.name,
        "part": form.part,
        "source": str(source.path),
        "method": method,
        "overrides": list(overrides),
        "params_hash": params_hash(variables.params),
        "compared": {row.name: row.error for row in proof.rows} or proof.reason,
    }


def _count(variables: Variables) -> int:
    return sum(int(np.size(leaf)) for leaf in flat(variables.params).values())
