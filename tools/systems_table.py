"""The table of all systems: difference from the authors' code, parameters, worth of the encoder, length of the file.

    mim-jax verify CASES --json results/reference_cases.json        what every reference case came to
    python tools/same_budget.py --data CIFAR10 --out RUNS; python tools/same_budget.py --out RUNS --add-rows COMMIT
    python tools/systems_table.py --write                           the table, into docs/systems.md

Without --write the table is printed. What nobody has run is an empty cell. Nothing here is a number of its own, except
the parameters that the authors' code has, which were counted there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mim_jax.replacing import replacing
from mim_jax.results import files

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


def worth(name: str, measure: str) -> str:
    """`35.1 / 28.6`: pretrained and untrained, in %, at the small common budget."""
    _, measured = files.read(ROOT / "results" / f"{name}.json")
    for row in measured:
        if row.id.endswith(f"/{measure}") and row.command.startswith("python tools/same_budget.py"):
            return f"{row.value:.1f} / {row.baselines['untrained']:.1f}"
    return ""


def table(cases: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = "| system | largest difference (cases) | parameters | kNN k=20 | linear | lines |"
    made = [head, "|---|---|---:|---|---|---:|"]
    for name, theirs in THEIRS.items():
        ours = parameters(name)
        same = f"{ours:,}" if ours == theirs else f"{ours:,}; theirs {theirs:,}"
        cells = [faithful(name, cases), same, worth(name, "knn_k20"), worth(name, "linear"), str(lines(name))]
        made.append(f"| [{name}](gallery/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT / "results" / "reference_cases.json")
    parser.add_argument("--write", action="store_true", help="into docs/systems.md")
    args = parser.parse_args()
    found = table(json.loads(args.cases.read_text()) if args.cases.exists() else [])
    if args.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        with replacing(PAGE) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
