"""`mim-jax export`: a run's weights as another side's own loader takes them, compared before they stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.errors import ConfigError, VerifyError, nearest
from mim_jax.interop import portable
from mim_jax.interop.card import model_card
from mim_jax.interop.format import LIBRARIES, PARTS, Arrays, Format, classifies, formats
from mim_jax.interop.proof import TOLERANCE, Proof, prove
from mim_jax.interop.source import read_source
from mim_jax.interop.staging import refuse_existing, staged
from mim_jax.interop.verify import verify_paths
from mim_jax.training.checkpoints import Which
from mim_jax.training.runs import Run, load_run

TARGETS = (*LIBRARIES, *portable.KINDS)


@dataclass(frozen=True)
class Exported:
    """What an export came to. form: the name of the format. files: their names in `out`."""

    out: Path
    form: str
    part: str
    proof: Proof
    files: tuple[str, ...]


def export_run(
    run_dir: str | Path,
    out: str | Path,
    *,
    to: str,
    part: str = "",
    named: str = "",
    step: Which = None,
    case: str = "",
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes the weights of a run into the new folder `out`, all or nothing.

    to: hf | timm | original | safetensors | npz | onnx | saved-jax. part: encoder | classifier | all; by default the
    classifier of a fine-tuned run, all for the authors' layout, else the encoder. named: the foreign format, where
    several would fit. case: a reference case that must pass.

    Raises:
        MimError: no such run, a method that the format cannot hold, a difference beyond the tolerance.
    """
    out = Path(out)
    refuse_existing(out)
    if to not in TARGETS:
        raise ConfigError(f"--to '{to}' is not known{nearest(to, TARGETS)}")
    if part and part not in PARTS:
        raise ConfigError(f"--part '{part}' is not one of {', '.join(PARTS)}")
    run = load_run(run_dir, step)
    if to in portable.KINDS:
        name, part, fill = portable.writer(run, to, part)
        prover: Callable[[Path], Proof] = lambda folder: portable.prove(run, to, part, folder, tolerance)  # noqa: E731
    else:
        form = choose(run, to, part, named)
        name, part = form.name, form.part
        fill = lambda folder: write_foreign(folder, run, to, form)  # noqa: E731
        prover = lambda folder: prove(form, read_source(folder), run.method, run.variables, tolerance)  # noqa: E731
    with staged(out) as folder:
        fill(folder)
        proof = prover(folder)
        proof.refuse(f"{run_dir} as {name}")
        if case and not verify_paths([case]):
            raise VerifyError(f"the reference case {case} does not pass, so nothing was written")
        (folder / "README.md").write_text(model_card(run, to, name, part, proof), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)
        files = tuple(sorted(file.name for file in folder.iterdir()))
    return Exported(out, name, part, proof, files)


def choose(run: Run, to: str, part: str = "", named: str = "") -> Format:
    """The first format of a library that can hold the part of a run.

    Raises:
        ConfigError: none, with every format's reason.
    """
    method = run.method
    part = part or ("classifier" if classifies(method) else "all" if to == "original" else "encoder")
    known = formats(to)
    if named and named not in {form.name for form in known}:
        raise ConfigError(f"--as '{named}' is no format of {to}{nearest(named, (form.name for form in known))}")
    serving = [f for f in known if f.part == part and f.serves(method.name) and named in ("", f.name)]
    if not serving:
        what = f"--as {named}" if named else f"--to {to}"
        raise ConfigError(f"{what} has no format for the part '{part}' of {method.name}; try another --part")
    reasons: dict[str, str] = {}
    for form in serving:
        reason = form.unheld(method)
        if not reason:
            return form
        reasons.setdefault(form.name, reason)
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ConfigError(f"no format of {to} holds the {part} of this run of {method.name} ({told})")


def write_foreign(folder: Path, run: Run, to: str, form: Format) -> None:
    """Weights and, beside them, the config by which the other side's loader builds the model."""
    arrays = form.write(run.method, run.variables)
    if to == "original":
        return _save_torch(folder / "checkpoint.pth", form.nest(arrays))
    from safetensors.numpy import save_file

    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    files = {"config.json": form.config(run.method)}
    if to == "hf":
        files["preprocessor_config.json"] = preprocessor(run)
    else:
        files["config.json"] = with_pixels(files["config.json"], run)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def preprocessor(run: Run) -> dict[str, Any]:
    """How transformers' image processor prepares what the encoder was trained on."""
    height, width = run.method.views()["image"].size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(run.config.data.mean),
        "image_std": list(run.config.data.std),
        "do_resize": True,
        "resample": 3,
        "size": {"height": height, "width": width},
    }


def with_pixels(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """timm's config with the statistics of the run's pixels."""
    view = run.method.views()["image"]
    own = {
        "input_size": [view.channels, *view.size],
        "mean": list(run.config.data.mean),
        "std": list(run.config.data.std),
        "interpolation": "bicubic",
    }
    return {**config, "pretrained_cfg": {**config.get("pretrained_cfg", {}), **own}}


def _save_torch(path: Path, content: dict[str, Any]) -> None:
    try:
        import torch
    except ImportError as error:
        raise ConfigError("the authors' layout is a file of torch, which is not installed; install torch") from error

    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.array(value))
        return {key: tensors(item) for key, item in value.items()} if isinstance(value, dict) else value

    torch.save(tensors(content), path)


__all__ = ["Arrays", "Exported", "choose", "export_run", "preprocessor", "write_foreign"]
