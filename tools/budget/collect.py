"""What the runs in a folder came to, over seeds, ready for JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PROTOCOLS = {"knn": ("top1_k10", "top1_k20"), "linear": ("top1",), "attentive": ("top1",), "finetune": ("top1",)}
SEED = re.compile(r"-seed(\d+)$")


def rows(out: Path) -> list[dict[str, Any]]:
    """One row a system that has results; a seed counts where its run has any.

    images and flops: of a whole training, as the run resolved them; networks that a system learns from are not counted.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in sorted((path.parent for path in out.glob("*/eval.json")), key=lambda path: (_name(path), _seed(path))):
        resolved = json.loads((run / "resolved.json").read_text())
        entries = {entry["protocol"]: entry for entry in json.loads((run / "eval.json").read_text())}
        steps, batch = resolved["steps"]["total"], resolved["batch"]["global"]
        flops = float(resolved["training FLOPs per image"])
        row = found.setdefault(
            _name(run),
            {
                "system": _name(run),
                "parameters": resolved["parameters"],
                "steps": steps,
                "batch": batch,
                "images": steps * batch,
                "flops": steps * batch * flops,
                "devices": resolved["devices"],
                "seeds": [],
                "checkpoints": [],
                "seconds": [],
                "protocols": {},
            },
        )
        if row["steps"] != steps or row["batch"] != batch:
            raise SystemExit(f"{run} has {steps} steps of {batch}, another seed of it {row['steps']} of {row['batch']}")
        row["seeds"].append(_seed(run))
        row["checkpoints"].append(next(iter(entries.values()))["checkpoint"]["hash"])
        row["seconds"].append(resolved.get("seconds"))
        for protocol, entry in entries.items():
            _add(row["protocols"].setdefault(protocol, {"command": entry["command"], "counts": entry["counts"]}), entry)
    return list(found.values())


def _add(kept: dict[str, Any], entry: dict[str, Any]) -> None:
    """Puts the numbers of one seed behind those of the others: {who: {metric: [by seed]}}."""
    for who, metrics in {"pretrained": entry["metrics"], **entry["baselines"]}.items():
        for metric, value in metrics.items():
            kept.setdefault("values", {}).setdefault(who, {}).setdefault(metric, []).append(value)


def _name(run: Path) -> str:
    return SEED.sub("", run.name)


def _seed(run: Path) -> int:
    found = SEED.search(run.name)
    return int(found[1]) if found else 0
