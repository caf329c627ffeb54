"""A run on TPUs of a GKE cluster by xpk, which makes a JobSet of it.

    python tools/launch/xpk.py --name mae-l --cluster my-cluster --accelerator v5litepod-16 --zone us-west4-a \\
        -- train --config configs/mae/imagenet1k.py:variant=L/16 --workdir gs://my-bucket/mae-l

The code is unpacked from the commit and put by xpk (docker must run here) on top of --base-image; with --image, an
image that has mim_jax installed is taken as it is. A pod that fails, or whose nodes are taken away, makes the JobSet
start again, at most --max-restarts times, and the same command goes on from the last checkpoint. The cluster is made
once: docs/launch.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import launching
from launching import LaunchError, Shell


def main(argv: list[str] | None = None) -> int:
    try:
        own, command = launching.split(sys.argv[1:] if argv is None else argv)
        args = declare().parse_args(own)
        launching.check_name(args.name)
        launching.check_zone(args.zone)
        launching.check_command(command, ["gs://"])
        return launch(args, command)
    except LaunchError as error:
        return launching.fail(error)


def declare() -> argparse.ArgumentParser:
    parser = launching.parser(__doc__)
    parser.add_argument("--cluster", required=True, help="a GKE cluster made by `xpk cluster create`")
    parser.add_argument("--accelerator", required=True, help="v4-128, v5litepod-16, v5p-32, v6e-16, ...")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="default: gcloud's own")
    image = parser.add_mutually_exclusive_group()
    image.add_argument("--base-image", default=f"python:{launching.PYTHON}", help="has Python; the code is put onto it")
    image.add_argument("--image", default="", help="has mim_jax and its configs in its working folder")
    parser.add_argument("--max-restarts", type=int, default=20)
    parser.add_argument("--priority", default="medium", choices=("very-low", "low", "medium", "high", "very-high"))
    return parser


def launch(args: argparse.Namespace, command: list[str]) -> int:
    one, shell, head = launching.accelerator(args.accelerator), Shell(args.dry_run), launching.commit()
    shell.say(f"{one.name}: {one.chips} chips ({one.topology}) on {one.hosts} hosts; commit {head[:12]}")
    if args.image:
        image, lines, program = [f"--docker-image={args.image}"], [], "mim-jax"
    else:
        folder = Path(tempfile.gettempdir()) / f"mim_jax-{head[:12]}"
        shell.run(launching.archive_command(head))
        shell.run(["mkdir", "-p", str(folder)])
        shell.run(["tar", "-xzf", str(launching.archive(head)), "-C", str(folder)])
        image = [f"--base-docker-image={args.base_image}", f"--script-dir={folder}"]
        lines, program = launching.install("tpu"), ".venv/bin/mim-jax"
    place = launching.value(command, "--workdir")
    examine = ["doctor", f"--expect-devices={one.chips}", f"--expect-hosts={one.hosts}", "--timeout=300"]
    examine += [f"--workdir={place}"] if place else []
    script = ["set -e", *lines, f"{program} {shlex.join(examine)}", f"{program} {shlex.join(command)}"]
    shell.run(
        [
            "xpk",
            "workload",
            "create",
            f"--workload={args.name}",
            f"--cluster={args.cluster}",
            f"--tpu-type={args.accelerator}",
            "--num-slices=1",
            f"--zone={args.zone}",
            *([f"--project={args.project}"] if args.project else []),
            *image,
            f"--priority={args.priority}",
            f"--max-restarts={args.max_restarts}",
            "--restart-on-user-code-failure",  # a process whose neighbour was taken away ends with an error
            "--termination-grace-period-seconds=120",  # time to save after SIGTERM
            f"--command={'; '.join(script)}",
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
