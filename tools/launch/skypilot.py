"""A run as a managed job of SkyPilot: TPU slices of Google Cloud, or GPUs of any cloud it knows.

    python tools/launch/skypilot.py --name mae-l --accelerator tpu-v5litepod-16 --infra gcp/us-west4 --spot \\
        -- train --config configs/mae/imagenet1k.py:variant=L/16 --workdir gs://my-bucket/mae-l

Writes the task as a file (JSON, which is YAML too), from the code of the commit, and starts `sky jobs launch`. Its
controller watches the machines: where they are taken away it finds others, and the same command goes on from the last
checkpoint; where the command fails by itself it is started again, at most --max-restarts times.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import launching
from launching import LaunchError, Shell


def main(argv: list[str] | None = None) -> int:
    try:
        own, command = launching.split(sys.argv[1:] if argv is None else argv)
        args = declare().parse_args(own)
        launching.check_name(args.name)
        launching.check_command(command, [args.shared])
        return launch(args, command)
    except LaunchError as error:
        return launching.fail(error)


def declare() -> argparse.ArgumentParser:
    parser = launching.parser(__doc__)
    parser.add_argument("--accelerator", required=True, help="tpu-v5litepod-16, tpu-v4-128, tpu-v6e-16, H100:8, ...")
    parser.add_argument("--nodes", type=int, default=1, help="machines; of TPUs 1, a slice counts as one (default: 1)")
    parser.add_argument("--infra", default="", help="cloud/region/zone (default: the cheapest)")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    parser.add_argument("--shared", default="gs://", help="what a workdir that all machines share begins with")
    parser.add_argument("--max-restarts", type=int, default=3, help="of a command that fails by itself (default: 3)")
    return parser


def task(args: argparse.Namespace, command: list[str], code: str) -> dict[str, Any]:
    """The task, as SkyPilot reads it."""
    tpu = args.accelerator.startswith("tpu-")
    resources: dict[str, Any] = {"accelerators": args.accelerator, "use_spot": args.spot}
    examine, variables = ["doctor", "--timeout=300"], ""
    if tpu:
        one = launching.accelerator(args.accelerator.removeprefix("tpu-"))
        resources["accelerator_args"] = {"runtime_version": one.runtime}
        examine += [f"--expect-devices={one.chips}", f"--expect-hosts={one.hosts}"]
    elif re.fullmatch(r"[\w-]+(:\d+)?", args.accelerator):
        examine += [f"--expect-hosts={args.nodes}"]
        # On a slice JAX asks the machines; elsewhere SkyPilot's variables say who is who.
        variables = (
            'export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n1):8476" '
            'JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"\n'
        )
    else:
        raise LaunchError(f"--accelerator {args.accelerator} is neither a TPU slice (tpu-v4-128) nor GPUs (H100:8)")
    if args.infra:
        resources["infra"] = args.infra
    resources["job_recovery"] = {"strategy": "FAILOVER", "max_restarts_on_errors": args.max_restarts}
    place = launching.value(command, "--workdir")
    examine += [f"--workdir={place}"] if place else []
    run = f".venv/bin/mim-jax {shlex.join(examine)}\n.venv/bin/mim-jax {shlex.join(command)}\n"
    return {
        "name": args.name,
        "workdir": code,
        "num_nodes": 1 if tpu else args.nodes,
        "resources": resources,
        "setup": "\n".join(["set -e", *launching.install("tpu" if tpu else "gpu")]) + "\n",
        "run": f"set -e\n{variables}{run}",
    }


def launch(args: argparse.Namespace, command: list[str]) -> int:
    shell, head = Shell(args.dry_run), launching.commit()
    folder = Path(tempfile.gettempdir()) / f"mim_jax-{head[:12]}"
    text = json.dumps(task(args, command, str(folder)), indent=2)
    file = folder.with_name(f"{args.name}.yaml")
    shell.say(f"commit {head[:12]}; the task, in {file}:")
    print(text, flush=True)
    shell.run(launching.archive_command(head))
    shell.run(["mkdir", "-p", str(folder)])
    shell.run(["tar", "-xzf", str(launching.archive(head)), "-C", str(folder)])
    if not args.dry_run:
        file.write_text(text + "\n")
    shell.run(["sky", "jobs", "launch", "--yes", "--detach-run", f"--name={args.name}", str(file)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
