"""A run on a TPU slice by Cloud TPU's queued resources, with nothing but gcloud.

    python tools/launch/queued_resources.py --name mae-l --accelerator v5litepod-16 --zone us-west4-a --spot \\
        --bucket gs://my-bucket -- train --config configs/mae/imagenet1k.py:variant=L/16 --workdir gs://my-bucket/mae-l

Uploads an archive of the commit, asks for the slice, waits for it, installs on every host, runs `mim-jax doctor` and
then the command on all of them, and looks after it. A slice that is taken away is asked for again and the same command
goes on from the last checkpoint. The launcher itself may be stopped (control-C) and started again: it finds the slice
and the run. --dry-run prints every command of a course without trouble.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time

import launching
from launching import LaunchError, Shell

CODE, RUN = "mim_jax_code", "mim_jax_run"  # folders in the home of every host
LOST = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING", "")  # states from which a slice does not come back
UNKNOWN = "UNKNOWN"  # of a question that was not answered: asked again


def main(argv: list[str] | None = None) -> int:
    try:
        own, command = launching.split(sys.argv[1:] if argv is None else argv)
        args = declare().parse_args(own)
        launching.check_name(args.name)
        launching.check_bucket(args.bucket)
        launching.check_zone(args.zone)
        launching.check_command(command, ["gs://", *([args.mount] if args.mount else [])])
        return Launch(args, command).course()
    except LaunchError as error:
        return launching.fail(error)


def declare() -> argparse.ArgumentParser:
    parser = launching.parser(__doc__)
    parser.add_argument("--accelerator", required=True, help="v4-128, v5litepod-16, v5p-32, v6e-16, ...")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="default: gcloud's own")
    parser.add_argument("--bucket", required=True, help="gs://..., for the code")
    parser.add_argument("--mount", default="", metavar="DIR", help="mount the bucket there on every host, by gcsfuse")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    parser.add_argument("--runtime", default="", help="software of the machines (default: by accelerator)")
    parser.add_argument("--poll", type=float, default=60.0, metavar="S", help="seconds between two looks (default: 60)")
    parser.add_argument("--retries", type=int, default=3, help="starts of a command that failed by itself (default: 3)")
    parser.add_argument(
        "--keep", action="store_true", help="leave the slice when the run has ended; it goes on costing"
    )
    return parser


class Launch:
    """One run from the upload of its code to its end."""

    def __init__(self, args: argparse.Namespace, command: list[str]):
        self.args, self.command = args, command
        self.slice = launching.accelerator(args.accelerator)
        self.head = launching.commit()
        self.shell = Shell(args.dry_run)
        self.where = [f"--zone={args.zone}", *([f"--project={args.project}"] if args.project else [])]
        self.code = f"{args.bucket.rstrip('/')}/code/{launching.archive(self.head).name}"

    def course(self) -> int:
        """Everything, until the command has ended; returns its exit code."""
        one = self.slice
        self.shell.say(f"{one.name}: {one.chips} chips ({one.topology}) on {one.hosts} hosts; commit {self.head[:12]}")
        self.shell.run(launching.archive_command(self.head))
        self.shell.run(["gcloud", "storage", "cp", "--no-clobber", str(launching.archive(self.head)), self.code])
        left = self.args.retries
        while True:
            self.obtain()
            if self.begin():
                code = self.watch()
                if code == 0:
                    return self.finish(0)
                if code is not None:
                    left -= 1
                    self.shell.say(f"the command ended with exit code {code}; its last lines:")
                    self.on_hosts(f"tail -n 30 {RUN}/log", worker="0", check=False)
                    if left <= 0:
                        return self.finish(code)
                    # what its neighbours still run, each with its children (setsid: a group of its own)
                    self.on_hosts(
                        f"kill -KILL -- -$(cat {RUN}/pid) 2>/dev/null; rm -f {RUN}/exit {RUN}/pid", check=False
                    )
                    continue
            self.shell.say("the slice was taken away; it is asked for again, and the same command goes on")
            self.release()

    def obtain(self) -> None:
        """Asks for the slice, unless it is there, and waits until it is."""
        args, shell = self.args, self.shell
        while True:
            state = self.state(dry="")
            if state == "":
                spot = ["--spot"] if args.spot else []
                runtime = args.runtime or self.slice.runtime
                wanted = [f"--accelerator-type={args.accelerator}", f"--runtime-version={runtime}"]
                shell.run([*self.queued("create"), f"--node-id={args.name}", *wanted, *spot])
            elif state in LOST:
                self.release()
                continue
            shell.say(f"waiting until the state is ACTIVE, asking every {args.poll:g} s")
            while (state := self.state(dry="ACTIVE")) not in ("ACTIVE", *LOST):
                time.sleep(args.poll)
            if state == "ACTIVE":
                return

    def begin(self) -> bool:
        """Installs, examines and starts the command on all hosts, unless it runs there; False if the slice is gone."""
        one, args = self.slice, self.args
        asked = f"cat {RUN}/exit 2>/dev/null || (kill -0 $(cat {RUN}/pid) && echo running) 2>/dev/null || true"
        code, said = self.on_hosts(asked, worker="0", check=False, quiet=True)
        if code == 0 and said:
            self.shell.say("the command is running there already, or has ended")
            return True
        place = launching.value(self.command, "--workdir") or args.mount or args.bucket
        examine = ["doctor", f"--expect-devices={one.chips}", f"--expect-hosts={one.hosts}", f"--workdir={place}"]
        write = f"mkdir -p {RUN} && echo {shlex.quote(self.script())} > {RUN}/run.sh"
        start = f"(setsid nohup bash {RUN}/run.sh > {RUN}/log 2>&1 < /dev/null &)"
        steps = (
            "\n".join(self.setup()),
            f"cd {CODE} && .venv/bin/mim-jax {shlex.join([*examine, '--timeout=180'])}",
            f"{write} && {start}",
        )
        for script in steps:
            code, _ = self.on_hosts(script, check=False)
            if code and self.state(dry="ACTIVE") in (*LOST, UNKNOWN):
                return False
            if code:
                raise LaunchError(
                    f"a host of {args.name} refused (exit code {code}; see above); the slice is left as it is: mend "
                    "it and start this launcher again, or delete it by " + shlex.join(self.deletion())
                )
        return True

    def setup(self) -> list[str]:
        """The script that installs the commit on a host, once."""
        mount = []
        if self.args.mount:
            folder, bucket = shlex.quote(self.args.mount), self.args.bucket.removeprefix("gs://").partition("/")[0]
            mount = [
                f"sudo mkdir -p {folder} && sudo chown $USER {folder}",
                f"mountpoint -q {folder} || gcsfuse --implicit-dirs {shlex.quote(bucket)} {folder}",
            ]
        return [
            "set -e",
            *mount,
            f"if [ -f {CODE}/.ready-{self.head} ]; then exit 0; fi",
            f"rm -rf {CODE} && mkdir {CODE} && cd {CODE}",
            f"gcloud storage cat {shlex.quote(self.code)} | tar -xz",
            *launching.install("tpu"),
            f"touch .ready-{self.head}",
        ]

    def script(self) -> str:
        """What every host runs; its exit code stays behind in a file."""
        begin, end = f"echo $$ > {RUN}/pid\ncd {CODE} && ", f"\necho $? > $HOME/{RUN}/exit\n"
        return f"{begin}.venv/bin/mim-jax {shlex.join(self.command)}{end}"

    def watch(self) -> int | None:
        """Waits for the end of the command: its exit code, or None if the slice is gone."""
        self.shell.say(f"the command runs; looking every {self.args.poll:g} s")
        while True:
            state = self.state(dry="ACTIVE")
            if state in LOST:
                return None
            code, said = self.on_hosts(
                f"cat {RUN}/exit 2>/dev/null || echo running", worker="0", check=False, quiet=True, dry="0"
            )
            if code == 0 and said.isdigit() and state == "ACTIVE":
                return int(said)
            time.sleep(self.args.poll)

    def finish(self, code: int) -> int:
        if self.args.keep:
            self.shell.say(f"done; the slice is kept and goes on costing: {shlex.join(self.deletion())}")
        else:
            self.release()
        return code

    def release(self) -> None:
        self.shell.run(self.deletion(), check=False)

    # ---- gcloud ------------------------------------------------------------------------------------------------------

    def queued(self, verb: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "queued-resources", verb, self.args.name, *self.where]

    def deletion(self) -> list[str]:
        return [*self.queued("delete"), "--force", "--quiet"]

    def state(self, dry: str) -> str:
        """Of the queued resource; '' where there is none, UNKNOWN where gcloud did not answer."""
        listed = ["gcloud", "compute", "tpus", "queued-resources", "list", *self.where]
        wanted = [f"--filter=name~/{self.args.name}$", "--format=value(state.state)"]
        code, said = self.shell.run([*listed, *wanted], answer=dry, check=False, quiet=True)
        return said if code == 0 else UNKNOWN

    def on_hosts(
        self, script: str, *, worker: str = "all", check: bool = True, quiet: bool = False, dry: str = ""
    ) -> tuple[int, str]:
        """Runs a script on the hosts by ssh; gcloud gives the words to bash there."""
        ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.args.name, *self.where, f"--worker={worker}"]
        return self.shell.run([*ssh, f"--command={script}"], answer=dry, check=check, quiet=quiet)


if __name__ == "__main__":
    sys.exit(main())
