"""A run on GPUs of a Slurm cluster, one process a GPU.

    python tools/launch/slurm.py --name mae-l --nodes 4 --gpus-per-node 8 --time 1-00:00:00 --partition gpu \\
        -- train --config configs/mae/imagenet1k.py:variant=L/16 --workdir /shared/runs/mae-l

Writes a batch script and submits it. Ten minutes before the time limit, and when Slurm takes the nodes for another
job, the run is asked to stop (SIGTERM), saves, and the job queues itself again; after a failed node Slurm queues it
again by itself (--requeue). The same command goes on from the last checkpoint. The code, with its environment in
.venv (`make quickstart` makes one; `pip install 'jax[cuda13]'` adds the GPUs), must lie on a disk that all nodes share.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

import launching
from launching import LaunchError, Shell

BEFORE = 600  # seconds before the time limit at which the run is asked to stop


def main(argv: list[str] | None = None) -> int:
    try:
        own, command = launching.split(sys.argv[1:] if argv is None else argv)
        args = declare().parse_args(own)
        launching.check_name(args.name)
        launching.check_command(command, ["/"])
        return launch(args, command)
    except LaunchError as error:
        return launching.fail(error)


def declare() -> argparse.ArgumentParser:
    parser = launching.parser(__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus-per-node", type=int, required=True)
    parser.add_argument("--time", required=True, help="limit of one job: minutes, HH:MM:SS or D-HH:MM:SS")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--cpus-per-gpu", type=int, default=8, help="for decoding (default: 8)")
    parser.add_argument(
        "--code", default=str(launching.ROOT), help="folder of mim_jax on the shared disk (default: here)"
    )
    return parser


def script(args: argparse.Namespace, command: list[str]) -> str:
    """The batch script."""
    if args.nodes < 1 or args.gpus_per_node < 1:
        raise LaunchError("--nodes and --gpus-per-node must be positive")
    for flag, given, form in (
        ("--time", args.time, r"\d+|(\d+-)?\d+:\d\d(:\d\d)?"),
        ("--partition", args.partition, r"[\w,.-]*"),
        ("--account", args.account, r"[\w.-]*"),
    ):
        if not re.fullmatch(form, given):  # they stand in lines of the script that no quotes protect
            raise LaunchError(f"{flag} {given} cannot be understood")
    options = {
        "job-name": args.name,
        "nodes": args.nodes,
        "ntasks-per-node": args.gpus_per_node,
        "gpus-per-node": args.gpus_per_node,
        "cpus-per-task": args.cpus_per_gpu,
        "time": args.time,
        "partition": args.partition,
        "account": args.account,
        "output": f"{args.name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{BEFORE}",
    }
    program, tasks = f"{args.code.rstrip('/')}/.venv/bin/mim-jax", args.nodes * args.gpus_per_node
    place = launching.value(command, "--workdir")
    examine = [program, "doctor", f"--expect-hosts={tasks}", f"--expect-devices={tasks}", "--timeout=180"]
    examine += [f"--workdir={place}"] if place else []
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{key}={value}" for key, value in options.items() if value),
            "#SBATCH --requeue",
            f"cd {shlex.quote(args.code)} || exit 2",
            f"srun {shlex.join(examine)} || exit 1",
            # The shell must be free to hear the signal, so the run is waited for in the background.
            f"srun --kill-on-bad-exit=1 {shlex.join([program, *command])} &",
            "run=$!",
            "again=no",
            "trap 'again=yes; kill -TERM $run' USR1",
            "trap 'kill -TERM $run' TERM",
            "wait $run; code=$?",
            # `wait` also returns when a signal came: the run is then still saving.
            "while kill -0 $run 2>/dev/null; do wait $run; code=$?; done",
            'if [ "$again" = yes ]; then scontrol requeue "$SLURM_JOB_ID"; exit 0; fi',
            "exit $code",
            "",
        ]
    )


def launch(args: argparse.Namespace, command: list[str]) -> int:
    text, shell, file = script(args, command), Shell(args.dry_run), Path(f"{args.name}.sbatch").absolute()
    if Path(args.code) == launching.ROOT:
        shell.say(f"commit {launching.commit()[:12]}; the script, in {file}:")
    print(text, flush=True)
    if not args.dry_run:
        file.write_text(text)
    shell.run(["sbatch", str(file)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
