"""The command line: what it understands, what it calls, what it says when something is wrong."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from mim_jax import cli, recipes
from mim_jax.commands.base import parse
from mim_jax.doctor import Expected
from mim_jax.errors import ConfigError
from mim_jax.interop.compare import Row
from mim_jax.interop.verify import Report

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "numpy", "PIL", "sklearn", "matplotlib", "ml_collections")


@pytest.fixture
def spec(tmp_path) -> str:
    path = tmp_path / "small.py"
    path.write_text("from mim_jax import recipes\n\n\ndef get_config(arg=None):\n    return recipes.pretrain()\n")
    return str(path)


@pytest.fixture
def library(monkeypatch):
    """Puts a stand-in with the same signature in place of a library function, so that a wrong call fails."""

    def replace(where: str, **answer):
        module, _, name = where.rpartition(".")
        real = importlib.import_module(module)
        stand_in = mock.create_autospec(getattr(real, name), **answer)
        monkeypatch.setattr(real, name, stand_in)
        return stand_in

    return replace


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mim_jax import cli; assert cli.main(['--help']) == 0; assert cli.main(['train', '-h']) == 0;"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]; assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mim-jax COMMAND" in done.stdout and "usage: mim-jax train" in done.stdout


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "mim_jax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mim-jax ")
    done = subprocess.run([sys.executable, "-m", "mim_jax", "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mim-jax: there is no command 'trian'; did you mean 'train'?\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_each_command_shows_two_examples_that_it_understands(name, capsys):
    command = cli.COMMANDS[name]
    assert cli.main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(command.examples) >= 2 and len(set(command.examples)) == len(command.examples)
    for example in command.examples:
        assert f"  mim-jax {example}\n" in shown
        found, rest = cli._find(shlex.split(example))
        assert found is command
        parse(command, rest)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_overview_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("group", ["data", "config"])
def test_overview_of_a_group(group, capsys):
    assert cli.main([group]) == 0
    shown = capsys.readouterr().out
    assert f"usage: mim-jax {group} COMMAND" in shown and "mim-jax train" not in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evel runs/x", "there is no command 'evel'; did you mean 'eval'?"),
        ("data stat x", "there is no command 'data stat'; did you mean 'stats'?"),
        ("eval runs/x --linera", "'eval' has no option --linera; did you mean '--linear'?"),
        ("train --confg=x --workdir y", "did you mean '--config'?"),
        ("show runs/x --step soon", "'soon' is not a step"),
        ("show runs/x --count many", "--count: invalid int value: 'many'"),
        ("train --workdir y", "--config"),
        ("train --config x --workdir y --config.seed", "--config.seed needs a value"),
        ("eval runs/x", "needs a protocol, such as --knn, or a --suite"),
        ("verify", "CASE_DIR"),
        ("show runs/x --config.seed=1", "'show' has no option --config.seed"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(line, words, capsys):
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("mim-jax: ") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_mistake_in_a_config_is_one_sentence(spec, capsys):
    assert cli.main(["config", "show", spec, "--config.optimizer.lrr=1"]) == 2
    assert "did you mean 'config.optimizer.lr'?" in capsys.readouterr().err


def test_debug_keeps_the_traceback(spec):
    with pytest.raises(ConfigError):
        cli.main(["config", "show", spec, "--config.optimizer.lrr=1", "--debug"])


def test_interruption_and_faults_of_ours(library, tmp_path, capsys):
    doctor = library("mim_jax.doctor.doctor", side_effect=KeyboardInterrupt)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "mim-jax: interrupted\n"
    doctor.side_effect = RuntimeError("a fault")
    with pytest.raises(RuntimeError):
        cli.main(["doctor"])


def test_a_reader_that_stops_reading_is_no_error():
    line = f"{shlex.quote(sys.executable)} -m mim_jax --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


# ---- what each command calls


def test_config_show(spec, capsys):
    assert cli.main(["config", "show", spec, "--config.optimizer.lr", "0.5", "--config.seed=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "optimizer.lr = 0.5" in lines and "seed = 3" in lines


def test_config_diff_exits_1_where_there_is_one(spec, tmp_path, capsys):
    assert cli.main(["config", "diff", spec, spec]) == 0
    other = tmp_path / "other.py"
    other.write_text(
        "from mim_jax import recipes\n\n\ndef get_config(arg=None):\n"
        "    config = recipes.pretrain()\n    config.seed = 9\n    return config\n"
    )
    capsys.readouterr()
    assert cli.main(["config", "diff", spec, str(other)]) == 1
    assert capsys.readouterr().out == "seed: 0 -> 9\n"


def test_config_check_checks_everything(spec, library, capsys):
    check_all = library("mim_jax.stages.check")
    assert cli.main(["config", "check", spec, "--config.seed=4"]) == 0
    assert check_all.call_args.args[0].seed == 4
    assert "valid" in capsys.readouterr().out


def test_train(spec, library):
    pretrain = library("mim_jax.stages.train")
    assert cli.main(["train", "--config", spec, "--config.optimizer.lr=1e-3", "--workdir", "runs/x"]) == 0
    (config, workdir), _ = pretrain.call_args
    expected = recipes.pretrain()
    expected.optimizer.lr = 1e-3
    assert config.to_dict() == expected.to_dict() and config.is_locked and workdir == "runs/x"


def test_eval(library):
    evaluate = library("mim_jax.evaluation.run.evaluate")
    line = "eval runs/x --knn --linear --step best --source digits --no-baselines --config.evaluation.linear.epochs=3"
    assert cli.main(line.split()) == 0
    evaluate.assert_called_once_with(
        Path("runs/x"),
        ("knn", "linear"),
        suite="",
        seeds=1,
        step="best",
        source="digits",
        eval_source="",
        baselines=False,
        overrides=("evaluation.linear.epochs=3",),
    )
    assert cli.main(["eval", "runs/x", "--few-shot", "--suite", "quick", "--seeds", "3"]) == 0
    assert evaluate.call_args.args == (Path("runs/x"), ("few_shot",))
    assert evaluate.call_args.kwargs["suite"] == "quick" and evaluate.call_args.kwargs["seeds"] == 3
    assert cli.main(["eval", "runs/x", "--linear", "--step", "12"]) == 0
    assert evaluate.call_args.args == (Path("runs/x"), ("linear",))
    assert evaluate.call_args.kwargs["step"] == 12 and evaluate.call_args.kwargs["baselines"] is True


def test_show(library):
    show_run = library("mim_jax.report.show.show_run")
    line = "show runs/x --images a.png b.png --count 3 --seed 5 --out o.png"
    assert cli.main(line.split()) == 0
    show_run.assert_called_once_with(
        Path("runs/x"), images=("a.png", "b.png"), source="", count=3, seed=5, out="o.png", step=None
    )


@pytest.mark.parametrize("passed", [True, False])
def test_verify(library, passed):
    verify = library("mim_jax.interop.verify.verify_paths", return_value=passed)
    assert cli.main(["verify", "a", "b"]) == (0 if passed else 1)
    verify.assert_called_once_with(["a", "b"], details=None, reports=[])


def test_verify_writes_what_every_case_came_to(library, tmp_path, capsys):
    rows = (Row("loss", True, 2e-6, 1e-5), Row("mask", True))
    found = Report("x", rows)
    library("mim_jax.interop.verify.verify_paths", side_effect=lambda *_, reports, **__: reports.append(found))
    assert cli.main(["verify", "a", "--json", str(tmp_path / "found.json")]) == 1
    (record,) = json.loads((tmp_path / "found.json").read_text())
    assert record == {"case": "x", "passed": True, "largest_difference": 2e-6, "nearest": pytest.approx(0.2)}
    assert cli.main(["verify", "a", "--json", str(tmp_path / "no" / "found.json")]) == 2
    assert "found.json cannot be written" in capsys.readouterr().err


def test_data_stats(library):
    stats = library("mim_jax.data.tools.stats")
    assert cli.main(["data", "stats", "folder:x", "--limit", "10"]) == 0
    assert stats.call_args.args == ("folder:x",) and stats.call_args.kwargs == {"limit": 10, "channels": 0}


def test_data_show_and_bench(library, spec):
    show, bench = library("mim_jax.data.tools.show"), library("mim_jax.data.tools.bench")
    assert cli.main(["data", "show", "--config", spec, "--out", "o.png", "--config.data.source=npy:x"]) == 0
    assert cli.main(["data", "bench", "--config", spec]) == 0
    assert show.call_count == bench.call_count == 1


def test_data_convert(library, capsys):
    convert = library("mim_jax.data.convert.to_arrayrecord", return_value=["a", "b"])
    assert cli.main(["data", "convert", "folder:x", "out", "--shard-size", "5"]) == 0
    convert.assert_called_once_with("folder:x", "out", shard_size=5)
    assert capsys.readouterr().out == "a\nb\n"


def test_data_tfds(library, capsys):
    convert = library("mim_jax.data.convert.to_tfds", return_value="d/x")
    assert cli.main(["data", "tfds", "x", "train=folder:a=b", "test=npy:c", "--data-dir", "d"]) == 0
    convert.assert_called_once_with({"train": "folder:a=b", "test": "npy:c"}, "x", "d")
    assert cli.main(["data", "tfds", "x", "folder:a", "--data-dir", "d"]) == 2
    assert "'folder:a' is not SPLIT=SOURCE" in capsys.readouterr().err


@pytest.mark.parametrize("well", [True, False])
def test_doctor(library, well):
    doctor = library("mim_jax.doctor.doctor", return_value=well)
    assert cli.main(["doctor", "--workdir", "w", "--timeout", "2"]) == (0 if well else 1)
    doctor.assert_called_once_with("w", timeout=2.0, expected=Expected(), data="")


def test_doctor_of_many_hosts(library):
    doctor = library("mim_jax.doctor.doctor", return_value=True)
    assert cli.main(["doctor", "--expect-hosts", "4", "--expect-devices", "16", "--config", "c.py"]) == 0
    doctor.assert_called_once_with("runs", timeout=60.0, expected=Expected(16, 4), data="c.py")
    assert cli.main(["doctor", "--config", "c.py", "--data", "digits"]) == 2


def test_doctor_nan(library):
    replay = library("mim_jax.training.nonfinite.replay")
    assert cli.main(["doctor", "nan", "runs/x/nonfinite/step_00000001"]) == 0
    assert replay.call_args.args[0] == "runs/x/nonfinite/step_00000001"
