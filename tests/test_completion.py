"""What the shell offers after `mim-jax ...` and the tabulator key: the script of the real commands, in a real bash."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mim_jax import cli
from mim_jax.commands import completion

TAB = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_mim_jax; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell, cli.ALL))
    return folder


@pytest.fixture
def offered(scripts, tmp_path):
    """A function: what bash offers for the last word of a command line, in a folder with a run."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash here")
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "own.py").write_text("")

    def press(*words: str) -> list[str]:
        command = ["bash", "-c", TAB, "bash", str(scripts / "bash"), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return done.stdout.split()

    return press


def test_bash_completes_commands_and_groups(offered):
    assert offered("mim-jax", "tr") == ["train"]
    assert set(offered("mim-jax", "config", "")) == {"check", "diff", "list", "show"}
    assert set(offered("mim-jax", "")) == {name.split()[0] for name in cli.COMMANDS}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_bash_completes_the_options_of_every_command(offered, name):
    shown = offered("mim-jax", *name.split(), "--")
    assert "--debug" in shown and ("--config.optimizer.lr" in shown) is cli.COMMANDS[name].overrides


def test_bash_completes_keys_configs_folders_and_choices(offered):
    assert offered("mim-jax", "train", "--config", "mae/cifar10", "--config.optimizer.warmup_e") == [
        "--config.optimizer.warmup_epochs"
    ]
    assert offered("mim-jax", "train", "--config", "configs/mae/c") == ["configs/mae/cifar10.py"]
    assert offered("mim-jax", "train", "--config", "mae/d") == ["mae/digits"]
    assert offered("mim-jax", "config", "diff", "mae/digits", "ow") == ["own.py"]
    assert offered("mim-jax", "eval", "ru") == ["runs"] and offered("mim-jax", "show", "runs/") == ["runs/digits"]
    assert offered("mim-jax", "completion", "") == list(completion.SHELLS)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_reads_its_script(scripts, shell):
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


def test_fish_completes(scripts):
    if not shutil.which("fish"):
        pytest.skip("there is no fish here")
    line = f"source {scripts / 'fish'}; complete -C 'mim-jax train --config mae/ci'"
    done = subprocess.run(["fish", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mae/cifar10")


def test_the_command_prints_the_script(scripts, capsys):
    assert cli.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == (scripts / "bash").read_text() + "\n"
    assert cli.main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
