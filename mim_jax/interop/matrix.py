"""Every system in every format: what goes out and comes back, and by how much the two sides differ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mim_jax.errors import ConfigError, MimError
from mim_jax.interop import portable
from mim_jax.interop.exporting import export_run
from mim_jax.interop.format import LIBRARIES, formats
from mim_jax.interop.imported import config_of_method, write_run
from mim_jax.interop.importing import import_run
from mim_jax.interop.proof import Proof
from mim_jax.methods import registry
from mim_jax.methods.base import Method
from mim_jax.training.groups import flat
from mim_jax.training.runs import fresh_variables, load_run

RESNET = dict(arch="resnet", block="basic", width=(64, 128, 256, 512), depth=(1, 1, 1, 1), stem_width=64, stem_stride=4)
CONVNEXT = dict(arch="convnext", width=(8, 16, 32, 64), depth=(1, 1, 1, 1), stem_stride=4, layer_scale=0.1)
SWIN = dict(patch_size=4, width=16, depths=(2, 2), heads=(2, 4), window_size=4)
BEIT = dict(qkv_bias="qv", layer_scale=0.1, positions="none", relative_bias="per_block", init="beit")
EVA02 = dict(mlp="swiglu_exact", mlp_ratio=8 / 3, mlp_norm=True, qkv_bias="qv", positions="learned", rope=4)
SETTINGS = ("decoder_width",)  # keys below that belong to the method section: four stages need a wide decoder
# Systems by what their users call them: a registered method, and keys of its tiny model section.
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "MAE": ("mae", {}),
    "MAE (EVA-02's encoder)": ("mae", EVA02),
    "SimMIM (ViT)": ("simmim", {}),
    "SimMIM (Swin)": ("simmim", dict(arch="swin", image_size=(32, 32), **SWIN)),
    "SimMIM (Swin V2)": ("simmim", dict(arch="swinv2", image_size=(32, 32), **SWIN)),
    "BEiT": ("beit", {}),
    "CAE": ("cae", {}),
    "CAE v2": ("cae_v2", {}),
    "MaskFeat": ("maskfeat", {}),
    "iBOT": ("ibot", {}),
    "I-JEPA": ("ijepa", {}),
    "SparK (ResNet)": ("spark", dict(image_size=(64, 64), zero_init=False, decoder_width=32, **RESNET)),
    "SparK (ConvNeXt)": ("spark", dict(image_size=(64, 64), decoder_width=32, **CONVNEXT)),
    "BEiT v2": ("beitv2", {}),
    "EVA-02": ("eva02", {}),
    "dBOT": ("dbot", {}),
    "dBOT (BEiT)": ("dbot_beit", {}),
    "MaskAlign": ("maskalign", {}),
    "AttMask": ("attmask", {}),
    "MSN": ("msn", {}),
    "MFF": ("mff", {}),
    "HPM": ("hpm", {}),
    "ColorMAE": ("colormae", {}),
    "LUT": ("lut", {}),
    "DMAE": ("dmae", {}),
    "LocalMIM (ViT)": ("localmim", {}),
    "LocalMIM (Swin)": ("localmim", dict(arch="swin", image_size=(32, 32), **SWIN)),
    "ConvMAE": ("convmae", {}),
    "DMJD": ("dmjd", {}),
    "CroCo": ("croco", {}),
    "MultiMAE": ("multimae", {}),
    "fine-tuned ViT": ("finetune", {}),
    "fine-tuned BEiT": ("finetune", BEIT),
    "fine-tuned EVA-02": ("finetune", EVA02),
    "fine-tuned Swin": ("finetune", dict(arch="swin", image_size=(32, 32), **SWIN)),
    "fine-tuned Swin V2": ("finetune", dict(arch="swinv2", image_size=(32, 32), **SWIN)),
    "fine-tuned ResNet": ("finetune", dict(image_size=(64, 64), zero_init=False, **RESNET)),
    "fine-tuned ConvNeXt": ("finetune", dict(image_size=(64, 64), **CONVNEXT)),
}
PARTS = {
    "hf": ("encoder", "all", "classifier"),
    "timm": ("encoder", "classifier"),
    "original": ("encoder", "all", "classifier"),
}
COLUMNS = (*((to, part) for to, parts in PARTS.items() for part in parts), *((to, "") for to in portable.KINDS))


@dataclass(frozen=True)
class Cell:
    """form: name of the foreign format, '' where there is none. worst: largest difference as a share of the largest
    value, None where nothing ran side by side. back: whether it came back, bit by bit. reason: of a refusal, or of a
    comparison left out. failed: what went wrong."""

    form: str = ""
    worst: float | None = None
    back: bool = False
    reason: str = ""
    failed: str = ""

    def text(self) -> str:
        if self.failed:
            return "FAILED"
        if not self.form:
            return ""
        return f"{self.form} {'' if self.worst is None else f'{self.worst:.0e}' if self.worst else 'equal'}".strip()


def random_run(out: Path, config: ConfigDict) -> Path:
    """A run with random weights: no leaf is constant, no two are alike, variances are positive."""
    method = registry.build(config)
    random = np.random.default_rng(3)

    def noisy(path: tuple, leaf: Any) -> Any:
        if leaf.dtype != np.float32:
            return leaf
        noise = random.standard_normal(leaf.shape).astype(np.float32)
        return abs(leaf + 0.1 * noise) + 0.5 if "var" in str(path[-1]) else leaf + 0.1 * noise

    variables = jax.tree_util.tree_map_with_path(noisy, fresh_variables(config, method))
    write_run(out, config, method, variables, {"library": "none"})
    return out


def cells(subject: str, columns: tuple[tuple[str, str], ...] = COLUMNS) -> Iterator[tuple[tuple[str, str], Cell]]:
    """A row of the matrix: ((target, part), what came of it)."""
    name, model = SUBJECTS[subject]
    config = config_of_method(_method(name, model))
    with tempfile.TemporaryDirectory() as folder:
        run = random_run(Path(folder) / "run", config)
        for number, (to, part) in enumerate(columns):
            try:
                cell = _cell(run, Path(folder) / str(number), to, part, name)
            except MimError as error:
                cell = Cell(failed=str(error))
            yield (to, part), cell


def _method(name: str, model: dict[str, Any]) -> Method:
    """The tiny method, or with a width of its decoder among the settings of the model, that one."""
    own = {key: model[key] for key in SETTINGS if key in model}
    made = registry.method_class(name)
    sizes = {key: value for key, value in model.items() if key not in own}
    return made.from_config(sizes, own) if own else made.tiny(**sizes)


def _cell(run: Path, folder: Path, to: str, part: str, method: str) -> Cell:
    if to in LIBRARIES and not any(form.part == part and form.serves(method) for form in formats(to)):
        return Cell(reason="no such format")
    try:
        done = export_run(run, folder / "out", to=to, part=part)
    except ConfigError as error:  # a refusal; what is wrong is raised
        return Cell(reason=str(error))
    worst = _worst(done.proof)
    if to not in LIBRARIES:
        return Cell(done.form, worst, reason=done.proof.reason)
    opened = load_run(run)
    base = _base(opened.config, to, part)
    import_run(folder / "out", folder / "back", library=to, method=method, part=part, config=base)
    form = next(form for form in formats(to) if form.name == done.form and form.part == part)
    before, after = (flat(form.part_of(r.method, r.variables)) for r in (opened, load_run(folder / "back")))
    same = before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    if not same:
        raise MimError(f"{done.form}: what came back is not what went out")
    return Cell(done.form, worst, back=True, reason=done.proof.reason)


def _base(config: ConfigDict, to: str, part: str) -> ConfigDict | None:
    """What an import is told beside the source: all of the authors' sizes, which their files do not hold; of an encoder
    alone the tiny method's settings, whose defaults are for larger images; else nothing."""
    if to == "original":
        return config
    if part != "encoder":
        return None
    base = config.copy_and_resolve_references()
    with base.unlocked():
        base.model = ConfigDict()
    base.lock()
    return base


def _worst(proof: Proof) -> float | None:
    return proof.worst if proof.rows else None
