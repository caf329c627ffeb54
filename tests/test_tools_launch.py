"""The launchers, against tools of the cloud that are played here: what would be executed is what is executed."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

TRAIN = ["train", "--config", "configs/mae/digits.py:epochs=1", "--workdir", "gs://my-bucket/run"]
QUEUED = ["--name", "mae-l", "--accelerator", "v5litepod-16", "--zone", "us-west4-a", "--bucket", "gs://my-bucket"]
HOSTILE = '--config.data.source=folder:it\'s; touch pwned $(touch pwned) `touch pwned` "x" \\ *'


@pytest.fixture(scope="module")
def repository(root, tmp_path_factory):
    """A repository with the launchers, all committed."""
    here = tmp_path_factory.mktemp("repository")
    shutil.copytree(root / "tools/launch", here / "tools/launch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "configs/mae", here / "configs/mae", ignore=shutil.ignore_patterns("__pycache__"))
    (here / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-C", str(here), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *words], check=True)
    return here


@pytest.fixture
def launching(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "tools/launch")
    return importlib.import_module("launching")


@pytest.fixture
def launch(repository, tmp_path):
    """Runs a launcher there; the folder `bin` comes first on the path."""

    def run(program, *words, timeout=60):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, str(repository / "tools/launch" / f"{program}.py"), *words],
            env={**os.environ, "PATH": path, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
        )

    return run


def tool(tmp_path, name, body):
    """A program of that name on the path."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    file = tmp_path / "bin" / name
    file.write_text(f"#!{sys.executable}\n{body}")
    file.chmod(0o755)


# ---- What is checked before anything is started ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "topology"),
    [
        ("v4-8", 4, 1, "2x2x1"),
        ("v4-128", 64, 16, "4x4x4"),
        ("v5litepod-8", 8, 1, "2x4"),
        ("v5litepod-16", 16, 4, "4x4"),
        ("v5litepod-256", 256, 64, "16x16"),
        ("v5p-32", 16, 4, "2x2x4"),
        ("v6e-16", 16, 4, "4x4"),
    ],
)
def test_slices_are_counted_as_their_family_counts(launching, name, chips, hosts, topology):
    found = launching.accelerator(name)
    assert (found.chips, found.hosts, found.topology) == (chips, hosts, topology)


@pytest.mark.parametrize(
    ("name", "said"), [("v5e-16", "v5litepod"), ("v4-7", "3.5 chips"), ("v9-8", "not one of"), ("v4", "not one of")]
)
def test_slices_that_are_none(launching, name, said):
    with pytest.raises(launching.LaunchError, match=said):
        launching.accelerator(name)


def test_the_shapes_are_those_that_the_compiler_knows(launching):
    from mim_jax.training.compile_ahead import chips_of

    for prefix, (kind, units, shapes, _) in launching.FAMILIES.items():
        for chips in shapes:
            found = launching.accelerator(f"{prefix}-{chips * units}")
            assert chips_of(f"{kind}:{found.topology}") == (kind, chips)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--bucket", "s3://x"], "not the name of a bucket"),
        (["--bucket", "gs://x y"], "not the name of a bucket"),
        (["--bucket", "gs://my-bucket/$(id)"], "not the name of a bucket"),
        (["--zone", "us-west4"], "not a zone"),
        (["--name", "a;b"], "small letters"),
        (["--accelerator", "v5litepod-17"], "no slice of 17 chips"),
    ],
)
def test_mistakes_cost_nothing(launch, change, said):
    done = launch("queued_resources", *QUEUED, *change, "--", *TRAIN)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "no command"),
        (["rm", "-rf"], "not a command of mim-jax"),
        (["train", "--config", "nowhere.py", "--workdir", "gs://b/r"], "not a file of the repository"),
        (["train", "--config", "configs/mae/digits.py", "--workdir", "runs/x"], "a disk of its own"),
        (["train", "--config", "configs/mae/digits.py"], "a disk of its own"),
    ],
)
def test_commands_that_cannot_run_there(launch, command, said):
    done = launch("queued_resources", *QUEUED, "--", *command)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("program", ["queued_resources", "xpk", "skypilot", "slurm"])
def test_help_needs_no_command(launch, program):
    done = launch(program, "--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout and "-- train" in done.stdout


def test_uncommitted_changes_are_refused(launch, repository):
    (repository / "new.txt").write_text("")
    try:
        done = launch("queued_resources", "--dry-run", *QUEUED, "--", *TRAIN)
    finally:
        (repository / "new.txt").unlink()
    assert done.returncode == 2 and "uncommitted changes (new.txt" in done.stderr


# ---- Queued resources ------------------------------------------------------------------------------------------------

# States are answered one after the other; a script of ssh is run in a folder that plays the host's home. Installing is
# left out: a program that writes its arguments down stands for mim-jax.
GCLOUD = """
import json, os, subprocess, sys
from pathlib import Path
here = Path(__file__).parent.parent
states = json.loads((here / "states.json").read_text())
words = sys.argv[1:]
with open(here / "calls.jsonl", "a") as log:
    log.write(json.dumps(["gcloud", *words]) + "\\n")
verb = words[3] if words[:3] == ["compute", "tpus", "queued-resources"] else ""
if verb == "list":
    print(states.pop(0))
    (here / "states.json").write_text(json.dumps(states))
elif verb == "delete":
    subprocess.run(["rm", "-rf", str(here / "home")])
elif words[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
    script, home = words[-1].removeprefix("--command="), here / "home"
    home.mkdir(exist_ok=True)
    if "uv venv" in script:
        bin = home / "mim_jax_code/.venv/bin"
        bin.mkdir(parents=True, exist_ok=True)
        (bin / "mim-jax").write_text("#!/bin/sh\\nexec " + sys.executable + " " + str(here / "program.py") + ' "$@"')
        (bin / "mim-jax").chmod(0o755)
        sys.exit(0)
    sys.exit(subprocess.run(["bash", "-c", script], cwd=home, env={**os.environ, "HOME": str(home)}).returncode)
"""
PROGRAM = """
import json, sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "programs.jsonl", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(json.loads((here / "codes.json").read_text()).get(sys.argv[1], 0))
"""


@pytest.fixture
def cloud(launch, tmp_path):
    """Plays a launch: (what the launcher did, calls of gcloud, calls of mim-jax)."""

    def play(*words, states, codes=None, program="queued_resources"):
        tool(tmp_path, "gcloud", GCLOUD)
        (tmp_path / "program.py").write_text(PROGRAM)
        (tmp_path / "states.json").write_text(json.dumps(states))
        (tmp_path / "codes.json").write_text(json.dumps(codes or {}))
        done = launch(program, *words)
        calls, programs = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            for file in (tmp_path / "calls.jsonl", tmp_path / "programs.jsonl")
        )
        return done, calls, programs

    return play


WATCH = ["--poll", "0.2"]


def test_a_dry_run_shows_what_is_executed(launch, cloud):
    words = [*QUEUED, "--spot", *WATCH, "--", *TRAIN, HOSTILE]
    shown = launch("queued_resources", "--dry-run", *words)
    assert shown.returncode == 0, shown.stderr
    done, calls, programs = cloud(*words, states=["", "ACTIVE", *["ACTIVE"] * 100])
    assert done.returncode == 0, done.stderr
    typed = [shlex.split(one) for one in commands(shown.stdout)]
    executed = [one for n, one in enumerate(calls) if n == 0 or one != calls[n - 1]]  # looking again and again
    watched = executed[-3:-1]
    while executed[-5:-3] == watched:
        del executed[-3:-1]
    assert [one for one in typed if one[0] == "gcloud"] == executed
    create = next(one for one in executed if "create" in one)
    assert {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} <= set(create)
    assert programs[0][:3] == ["doctor", "--expect-devices=16", "--expect-hosts=4"]
    assert programs[1] == [*TRAIN, HOSTILE]  # whatever a value holds arrives as it was, and nothing of it is run


def commands(text):
    """The commands of a dry run; one may go over several lines, inside of quotes."""
    found = [""]
    for line in text.splitlines():
        if not found[-1] and line.startswith("#"):
            continue
        found[-1] += line
        try:
            shlex.split(found[-1])
            found.append("")
        except ValueError:
            found[-1] += "\n"
    return [one for one in found if one]


def test_a_slice_that_is_taken_away_is_asked_for_again(cloud):
    states = ["", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "", "ACTIVE", *["ACTIVE"] * 100]
    done, calls, programs = cloud(*QUEUED, "--spot", *WATCH, "--", *TRAIN, states=states)
    assert done.returncode == 0, done.stderr
    verbs = [one[4] for one in calls if one[3] == "queued-resources" and one[4] != "list"]
    assert verbs == ["create", "delete", "create", "delete"]
    # What was begun on the lost slice may get to its first line after the next slice's first program.
    assert programs[0][0] == "doctor" and sorted(one[0] for one in programs) == ["doctor", "doctor", "train", "train"]
    assert programs.count(TRAIN) == 2


def test_a_host_that_the_doctor_refuses_is_left_for_a_look(cloud):
    done, calls, programs = cloud(*QUEUED, *WATCH, "--", *TRAIN, states=["", *["ACTIVE"] * 20], codes={"doctor": 1})
    assert done.returncode == 2 and "refused" in done.stderr and "queued-resources delete mae-l" in done.stderr
    assert [one[0] for one in programs] == ["doctor"] and "delete" not in [one[4] for one in calls]


def test_a_command_that_fails_by_itself_is_tried_again_but_not_for_ever(cloud):
    done, calls, programs = cloud(
        *QUEUED, *WATCH, "--retries", "2", "--", *TRAIN, states=["", *["ACTIVE"] * 200], codes={"train": 3}
    )
    assert done.returncode == 3 and "exit code 3" in done.stdout
    assert [one[0] for one in programs] == ["doctor", "train"] * 2
    assert "delete" in [one[4] for one in calls]


# ---- The others ------------------------------------------------------------------------------------------------------


def test_xpk(launch):
    words = ["--cluster", "c", "--zone", "us-central2-b", "--name", "mae-l", "--accelerator", "v4-128"]
    done = launch("xpk", "--dry-run", *words, "--", *TRAIN, HOSTILE)
    last = shlex.split(commands(done.stdout)[-1])
    assert last[:3] == ["xpk", "workload", "create"] and "--tpu-type=v4-128" in last and "--max-restarts=20" in last
    script = last[-1].removeprefix("--command=").split("; .venv/bin/mim-jax train ")
    assert shlex.split(".venv/bin/mim-jax train " + script[1])[1:] == [*TRAIN, HOSTILE]
    assert "--expect-devices=64 --expect-hosts=16" in script[0]


def test_skypilot(launch, tmp_path):
    tool(tmp_path, "sky", "import sys; print('sky', *sys.argv[1:])")
    words = ["--name", "mae-l", "--infra", "gcp/us-west4", "--spot", "--", *TRAIN, HOSTILE]
    done = launch("skypilot", "--accelerator", "tpu-v5litepod-16", *words)
    assert done.returncode == 0 and "sky jobs launch --yes --detach-run --name=mae-l" in done.stdout
    task = json.loads((tmp_path / "mae-l.yaml").read_text())
    assert task["resources"]["accelerators"] == "tpu-v5litepod-16" and task["resources"]["use_spot"] is True
    assert shlex.split(task["run"].splitlines()[-1])[1:] == [*TRAIN, HOSTILE]
    assert (tmp_path / task["workdir"] / "configs/mae/digits.py").exists()  # the code, as committed
    gpus = launch("skypilot", "--dry-run", "--accelerator", "H100:8", "--nodes", "4", *words)
    assert "JAX_NUM_PROCESSES" in gpus.stdout and '"num_nodes": 4' in gpus.stdout


SLURM = ["--name", "mae-l", "--nodes", "2", "--gpus-per-node", "4", "--time", "01:00:00"]
SHARED = ["train", "--config", "configs/mae/digits.py", "--workdir", "/shared/run"]


def test_slurm_refuses_what_would_break_out_of_its_lines(launch):
    done = launch("slurm", *SLURM, "--partition", "gpu\nrm -rf /", "--", *SHARED)
    assert done.returncode == 2 and "--partition" in done.stderr


@pytest.mark.parametrize(("signals", "code", "requeued"), [([], 5, False), ([signal.SIGUSR1], 0, True)])
def test_slurm_stops_the_run_before_the_limit_and_queues_again(launch, tmp_path, signals, code, requeued):
    tool(tmp_path, "sbatch", "")
    tool(tmp_path, "scontrol", f"import sys; open({str(tmp_path / 'again')!r}, 'w').write(' '.join(sys.argv[1:]))")
    # srun of the run waits until it is asked to stop, takes its time to save, and says so; without signals it fails
    body = f"""
import json, signal, sys, time
from pathlib import Path
here = Path({str(tmp_path)!r})
with open(here / "programs.jsonl", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if "doctor" in sys.argv: sys.exit(0)
if not {bool(signals)}: sys.exit(5)
def stop(*_):
    time.sleep(0.5)
    (here / "saved").write_text("")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(here / "running").write_text("")
time.sleep(60)
"""
    tool(tmp_path, "srun", body)
    done = launch("slurm", *SLURM, "--code", str(tmp_path), "--", *SHARED, HOSTILE)
    assert done.returncode == 0, done.stderr
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    with subprocess.Popen(["bash", str(tmp_path / "mae-l.sbatch")], env=env, cwd=tmp_path) as batch:
        for one in signals:
            end = time.monotonic() + 30
            while not (tmp_path / "running").exists() and time.monotonic() < end:
                time.sleep(0.05)
            batch.send_signal(one)
        assert batch.wait(timeout=30) == code
    assert (tmp_path / "again").exists() == requeued == (tmp_path / "saved").exists()
    programs = [json.loads(line) for line in (tmp_path / "programs.jsonl").read_text().splitlines()]
    assert "--expect-hosts=8" in programs[0] and programs[1][-len(SHARED) - 1 :] == [*SHARED, HOSTILE]
