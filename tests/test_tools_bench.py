"""What the benchmarks compute from their measurements; none is measured here."""

import importlib.util
import json
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench(root):
    """Loads a benchmark by name; they are programs, not a package."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"bench_{name}", root / "tools/bench" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[spec.name]
        return module

    return load


# ---- check: the kept results against a command that prints others -------------------------------------------------


@pytest.fixture
def checked(bench, tmp_path, capsys):
    """Runs check.py on results that are written as given; {name: (fields kept, what its command does)}."""

    def run(results, *words):
        folder = tmp_path / "results"
        folder.mkdir()
        for name, (fields, body) in results.items():
            program = tmp_path / f"{name}.py"
            program.write_text(body)
            (folder / f"{name}.json").write_text(json.dumps({"command": f"python {program}", **fields}))
        code = bench("check").main([*words, "--results", str(folder)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def prints(ratios, **fields):
    return f"print({json.dumps(json.dumps({'ratios': ratios, **fields}))})"


@pytest.mark.parametrize(
    ("better", "old", "new", "code", "word"),
    [
        (None, 1.0, 1.1, 0, "same"),
        (None, 1.0, 1.3, 0, "better"),
        (None, 1.0, 0.8, 1, "WORSE"),
        ("lower", 1.0, 0.8, 0, "better"),
        ("lower", 1.0, 1.3, 1, "WORSE"),
        ({"a": "lower"}, 1.0, 1.3, 1, "WORSE"),
        ({"b": "lower"}, 1.0, 1.3, 0, "better"),
        ("lower", 0.0, 0.1, 1, "WORSE"),
        (None, 1.0, float("nan"), 1, "WORSE"),
    ],
)
def test_check_says_which_way_a_ratio_moved(checked, better, old, new, code, word):
    fields = {"ratios": {"a": old}} | ({"better": better} if better else {})
    found, text = checked({"one": (fields, prints({"a": new}))})
    assert found == code and word in text


def test_check_tolerance_and_names(checked):
    results = {
        "one": ({"ratios": {"a": 1.0}}, prints({"a": 0.95})),
        "two": ({"ratios": {"a": 1.0}}, "raise SystemExit('not to be run')"),
    }
    code, text = checked(results, "one", "--tolerance", "0.01")
    assert code == 1 and "WORSE" in text and "two" not in text


def test_check_goes_on_after_a_failure(checked):
    results = {
        "fails": ({"ratios": {"a": 1.0}}, "import sys; print('noise'); sys.exit('no such device')"),
        "gone": ({"ratios": {"a": 1.0, "b": 2.0}}, prints({"b": 2.0, "c": 3.0})),
        "prints_text": ({"ratios": {"a": 1.0}}, "print('done')"),
        "slow": ({"ratios": {"a": 1.0}, "machine": {"cpus": 2}}, prints({"a": 1.0}, machine={"cpus": 4})),
    }
    code, text = checked(results)
    assert code == 1
    assert "ended with 1: no such device" in text
    assert "a: 1 -> gone  WORSE" in text and "c: 3  new" in text
    assert "printed no JSON object with ratios" in text
    assert "kept on another machine" in text
    assert text.rstrip().endswith("worse or failed: fails, gone, prints_text")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "cannot be read"), ("[]", "no JSON object"), ('{"command": "python x.py"}', "has no 'ratios'")],
)
def test_check_refuses_what_is_no_result(bench, tmp_path, capsys, content, sentence):
    (tmp_path / "one.json").write_text(content)
    assert bench("check").main(["--results", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().out


def test_check_names_what_there_is(bench, tmp_path, capsys):
    (tmp_path / "one.json").write_text("{}")
    assert bench("check").main(["other", "--results", str(tmp_path)]) == 2
    assert "there is one" in capsys.readouterr().err


def test_check_stops_a_command_that_hangs(checked):
    code, text = checked({"one": ({"ratios": {"a": 1.0}}, "import time; time.sleep(60)")}, "--timeout", "0.2")
    assert code == 1 and "took longer than 0.2 s" in text


def test_kept_results_can_be_checked(bench, root):
    files = sorted((root / "results/bench").glob("*.json"))
    assert files
    for path in files:
        program = bench("check").kept(path)["command"].split()[1]
        assert (root / program).is_file(), path.name


# ---- What the benchmarks compute ------------------------------------------------------------------------------


def test_loop_is_compared_with_its_neighbours(bench):
    loop_cost = bench("loop_cost")
    # The machine slows down by half: the ratio stays.
    assert loop_cost.neighbour_ratios([1.1, 1.65], [1.0, 1.0, 2.0]) == pytest.approx([1.1, 1.1])
    blocks = loop_cost.Blocks(lambda steps: 0.5, every_steps=10)
    for step in (10, 20, 30):
        assert blocks(None, step) == {}
    assert len(blocks.loop) == 2 and blocks.bare == [0.5] * 3


def test_synthetic_data_starts_at_its_step(bench):
    data = bench("loop_cost").Synthetic([{"n": 0}, {"n": 1}, {"n": 2}], records=6)
    batches = data.open_at(4)
    assert [next(batches)["n"] for _ in range(4)] == [1, 2, 0, 1]


def test_growth_finds_the_power(bench):
    growth = bench("growth")
    x = np.array([8.0, 2.0, 4.0])  # in any order
    axis = growth.fitted(x, 3 * x**1.5, 1e9 * x**2)
    assert axis["exponent_of_time"] == axis["last_exponent_of_time"] == pytest.approx(1.5)
    assert axis["exponent_of_flops"] == pytest.approx(2.0)
    assert axis["x"] == [2.0, 4.0, 8.0] and axis["gflops"] == [4.0, 16.0, 64.0]


def test_growth_draws_every_axis(bench, tmp_path):
    growth, x = bench("growth"), [1.0, 2.0, 4.0]
    axis = growth.fitted(x, x, [1e9, 2e9, 4e9])
    for name, axes in (("one.png", ("depth",)), ("two.svg", ("batch", "mask ratio"))):
        growth.plot(dict.fromkeys(axes, axis), str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1000


def test_systems_are_judged_by_their_flops(bench):
    systems = bench("systems")
    rows = systems.compared({"mae": 1.0, "slow": 4.0, "large": 4.0}, {"mae": 1e9, "slow": 2e9, "large": 4e9}, batch=8)
    found = {row["system"]: row for row in rows}
    assert rows[0]["system"] == "mae" and rows[0]["images_per_second"] == 8.0
    assert found["large"]["efficiency"] == 1.0 and not found["large"]["slower_than_its_flops"]
    assert found["slow"]["efficiency"] == 0.5 and found["slow"]["slower_than_its_flops"]
    assert "2.0 times what its FLOPs explain" in systems.table(rows)


@pytest.mark.slow
def test_loop_and_bare_step_run(root, tmp_path):
    """The whole of loop_cost on a model of one block."""
    import subprocess

    small = ["model.width=32", "model.depth=1", "method.decoder_depth=1", "training.batch_size=8"]
    command = [sys.executable, "tools/bench/loop_cost.py", "--blocks", "4", "--set=training.log_every=5"]
    done = subprocess.run([*command, *(f"--set={word}" for word in small)], cwd=root, capture_output=True, check=True)
    report = json.loads(done.stdout)
    assert set(report["ratios"]) == {"loop / bare step", "import mim_jax / goal", "first step, warm cache / goal"}
    assert report["loop"]["steps"] == 20 and len(report["loop"]["ratio_of_each_block"]) == 3
    assert report["first_step"]["cold"]["seconds"] > 0
