"""The model card beside exported weights: what they are, what they were measured at, how they are loaded."""

from __future__ import annotations

import json
from typing import Any

from mim_jax.interop.proof import Proof
from mim_jax.training.runs import Run

LOADING = {
    "hf": "from transformers import {form}\nmodel = {form}.from_pretrained('.').eval()\noutput = model(pixel_values)",
    "timm": "import timm\nmodel = timm.create_model('local-dir:.', pretrained=True).eval()\noutput = model(pixels)",
    "original": "import torch\nstate = torch.load('checkpoint.pth', weights_only=True)\n"
    "model.load_state_dict(state['model'])  # the model of the authors' repository",
    "safetensors": "from safetensors.numpy import load_file\narrays = load_file('weights.safetensors')\n"
    "print({name: array.shape for name, array in arrays.items()})",
    "npz": "import numpy as np\narrays = np.load('weights.npz')\nprint({name: arrays[name].shape for name in arrays})",
    "onnx": "import onnxruntime\nsession = onnxruntime.InferenceSession('model.onnx')\n"
    "outputs = session.run(None, {'images': images})  # float32 (batch, height, width, channels)",
    "saved-jax": "import jax, safetensors.flax\n"
    "encode = jax.export.deserialize(open('model.stablehlo', 'rb').read())\n"
    "outputs = encode.call(safetensors.flax.load_file('weights.safetensors'), images)",
}


def model_card(run: Run, to: str, form: str, part: str, proof: Proof) -> str:
    """Markdown: method and config, hash, data, metrics, how it was compared, licence notes, how to load it."""
    config = run.config
    lines = [
        "---",
        "library_name: " + {"hf": "transformers", "timm": "timm"}.get(to, "mim_jax"),
        f"tags: [masked-image-modeling, {run.method.name}]",
        "---",
        f"# {run.method.name}: {part} as {form}",
        "",
        f"Written by mim_jax from the checkpoint at step {run.step}, parameters sha256 `{run.checkpoint_hash}`.",
        "",
        "## Load it",
        "```python",
        LOADING[to].replace("{form}", form),
        "```",
        f"Pixels in [0, 1], RGB order, are normalised by mean {tuple(config.data.mean)} and standard deviation "
        f"{tuple(config.data.std)}.",
        "",
        "## Compared",
        *_compared(proof),
        "",
        "## Data and licence",
        f"Trained on `{config.data.source}`. These weights carry no licence by themselves: the terms of that data, and"
        " of weights that the run started from, apply.",
        *([f"The run started from `{config.training.start_from}`."] if config.training.start_from else []),
        *_origin(run),
        "",
        "## Measured",
        *_metrics(run),
        "",
        "## Config",
        "```json",
        json.dumps({"model": config.model.to_dict(), "method": config.method.to_dict()}, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _compared(proof: Proof) -> list[str]:
    if not proof.rows:
        return [f"Not compared when it was written: {proof.reason}."]
    rows = [f"| {row.name} | {'equal' if row.error is None else f'{row.error:.1e}'} |" for row in proof.rows]
    head = "Largest difference on the same images, as a share of the largest value, both sides in float32:"
    return [head, "", "| array | difference |", "|---|---|", *rows]


def _origin(run: Run) -> list[str]:
    from mim_jax.training.runs import IMPORT_NOTE

    path = run.workdir / IMPORT_NOTE
    if not path.exists():
        return []
    note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [f"The weights were imported from `{note.get('source')}` ({note.get('library')}, {note.get('format')})."]


def _metrics(run: Run) -> list[str]:
    """One line for each of the run's own evaluations of these weights."""
    path = run.workdir / "eval.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entries = [entry for entry in entries if entry.get("checkpoint", {}).get("hash") == run.checkpoint_hash]
    lines = [f"- {_metric(entry)}" for entry in entries]
    return lines or ["No evaluation of these weights is stored."]


def _metric(entry: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in entry.get("metrics", {}).items())
    counts = ", ".join(f"{count} {name}" for name, count in entry.get("counts", {}).items())
    return f"{entry.get('protocol')} ({entry.get('feature')}): {values}; {counts}"
