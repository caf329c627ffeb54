"""`mim-jax config list` and `config show --resolved`: what there is, and what a config comes to."""

from __future__ import annotations

import json

import pytest

from mim_jax import cli

SMALL = ["--config.model.depth=1", "--config.method.decoder_depth=1", "--config.mesh.data=1"]
SMALL += ["--config.mesh.fsdp=8"]  # of the eight devices that the tests simulate


def test_the_list_names_what_can_be_loaded(capsys):
    assert cli.main(["config", "list", "mae"]) == 0
    assert capsys.readouterr().out.split() == [f"configs/mae/{name}.py" for name in ("cifar10", "digits", "imagenet1k")]
    assert cli.main(["config", "list", "maee"]) == 2
    assert "no config of 'maee'; did you mean 'mae'?" in capsys.readouterr().err


def test_resolved_says_what_the_config_comes_to(capsys):
    assert cli.main(["config", "show", "mae/digits", "--resolved", "--config.training.epochs=10", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "method.name = 'mae'" in shown and "steps                      total 220, per epoch 22" in shown
    assert cli.main(["config", "show", "mae/digits", "--resolved", "--images", "640", "--json", *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = found["resolved"]["it comes to"]
    assert facts["steps"]["per epoch"] == 10 and facts["training images"] == 640
    assert facts["parameters"]["total"] == sum(facts["parameters"][part] for part in ("encoder", "decoder"))
    assert found["config"]["method"]["name"] == "mae"


def test_resolved_of_a_source_that_is_not_here_asks_for_its_size(capsys):
    line = ["config", "show", "mae/digits", "--resolved", "--config.data.source=folder:nowhere", *SMALL]
    assert cli.main(line) == 2
    assert "data.source 'folder:nowhere' is not here" in capsys.readouterr().err
    assert cli.main([*line, "--images", "6400"]) == 0
    assert cli.main([*line, "--images", "none"]) == 2


def test_resolved_of_a_run_is_what_it_began_with(tmp_path, capsys):
    assert cli.main(["config", "show", "mae/digits", "--json"]) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    (tmp_path / "resolved.json").write_text('{"steps": {"total": 77}}')
    assert cli.main(["config", "show", str(tmp_path), "--resolved"]) == 0
    assert "steps                      total 77" in capsys.readouterr().out.split("the run began with:")[1]
    (tmp_path / "resolved.json").write_text("{")
    assert cli.main(["config", "show", str(tmp_path), "--resolved"]) == 2
    assert "resolved.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["mae/digits"], ["configs/mae/digits.py"]])
def test_two_names_of_one_config_do_not_differ(words, capsys):
    assert cli.main(["config", "diff", "configs/mae/digits.py", *words]) == 0
    assert cli.main(["config", "diff", f"{words[0]}:epochs=10", *words]) == 1
    assert "training.epochs: 10.0 -> 25.0" in capsys.readouterr().out
