"""The table of all systems: difference from the authors' code, parameters, worth of the encoder, length of the file.

    mim-jax verify CASES --json results/reference_cases.json        what every reference case came to
    python tools/same_budget.py --data CIFAR10 --out RUNS           writes RUNS/results.json: results/same_budget.json
    python tools/systems_table.py --write                           the table, into docs/systems.md

Without --write the table is printed. What nobody has run is an empty cell. Nothing here is a number of its own, except
the parameters that the authors' code has, which were counted there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "systems.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"

# Trained parameters in the authors' code of what configs/SYSTEM/imagenet1k.py builds by default.
THEIRS = {
    "mae": 111_655_680,
    "simmim": 89_874_104,
    "maskfeat": 85_882_476,
    "beit": 91_965_776,
    "cae": 148_681_472,
    "ibot": 29_280_768,
    "ijepa": 96_885_504,
    "spark": 52_921_835,
    "beitv2": 106_143_056,
    "msn": 27_445_376,
    "attmask": 29_280_768,
    "dbot": 111_655_680,
    "dmae": 112_443_136,
    "maskalign": 92_734_608,
    "mff": 114_608_646,
    "localmim": 89_916_140,
    "hpm": 137_269_760,
    "colormae": 111_655_680,
    "convmae": 114_790_528,
    "croco": 120_076_288,
    "eva02": 86_546_944,
    "multimae": 97_917_072,
    "lut": 124_254_976,
    "dmjd": 135_635_032,
}


def parameters(name: str) -> int:
    """Trained parameters of a system's published model, by shapes alone."""
    import jax
    import jax.numpy as jnp

    from mim_jax import config as configs
    from mim_jax.methods import registry

    method = registry.build(configs.load(str(ROOT / "configs" / name / "imagenet1k.py")))
    batch = {view: jax.ShapeDtypeStruct(shape.array(2), jnp.float32) for view, shape in method.views().items()}
    batch["label"] = jax.ShapeDtypeStruct((2,), jnp.int32)
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(method.init, jax.random.key(0), batch).params))


def lines(name: str) -> int:
    """Of the method's own file."""
    from mim_jax.methods.registry import METHODS

    module = METHODS[name].partition(":")[0]
    return len((ROOT / (module.replace(".", "/") + ".py")).read_text().splitlines())


def faithful(name: str, cases: list[dict[str, Any]]) -> str:
    """`7e-07 (3 cases)`: the largest difference, relative to the largest magnitude of its array."""
    own = [case for case in cases if case["case"].split("/")[0] == name]
    if not own:
        return ""
    failed = sum(not case["passed"] for case in own)
    words = f"{max(case['largest_difference'] for case in own):.0e} ({len(own)})"
    return words + (f", {failed} FAILED" if failed else "")


def worth(row: Mapping[str, Any] | None, protocol: str, metric: str) -> str:
    """`35.1 / 28.6`: pretrained and untrained, in %."""
    values = (row or {}).get("protocols", {}).get(protocol, {}).get("values", {})
    found = [values[who][metric] for who in ("pretrained", "untrained") if who in values]
    return " / ".join(f"{100 * sum(by_seed) / len(by_seed):.1f}" for by_seed in found)


def table(cases: list[dict[str, Any]], budget: list[dict[str, Any]]) -> str:
    """Markdown."""
    rows = {row["system"]: row for row in budget}
    head = "| system | largest difference (cases) | parameters | kNN k=20 | linear | lines |"
    made = [head, "|---|---|---:|---|---|---:|"]
    for name, theirs in THEIRS.items():
        ours = parameters(name)
        same = f"{ours:,}" if ours == theirs else f"{ours:,}; theirs {theirs:,}"
        cells = [faithful(name, cases), same, worth(rows.get(name), "knn", "top1_k20")]
        cells += [worth(rows.get(name), "linear", "top1"), str(lines(name))]
        made.append(f"| [{name}](gallery/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT / "results" / "reference_cases.json")
    parser.add_argument("--budget", type=Path, default=ROOT / "results" / "same_budget.json")
    parser.add_argument("--write", action="store_true", help="into docs/systems.md")
    args = parser.parse_args()
    cases, budget = (json.loads(path.read_text()) if path.exists() else [] for path in (args.cases, args.budget))
    found = table(cases, budget)
    if args.write:
        from mim_jax.replacing import replacing

        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        with replacing(PAGE) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
