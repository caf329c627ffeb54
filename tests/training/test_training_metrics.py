"""The log of a run: strict JSON, every step once, only the first process."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.training.metrics import Writers, cut_lines, json_line


def refuse(token):
    raise ValueError(f"{token} is no JSON")


def read(path):
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def events(folder) -> list:
    """All events of all event files, in the order written."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")  # length, 4 bytes of checksum, event, 4 bytes of checksum
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def curves(folder) -> dict[str, list]:
    """{tag: [(step, value)]}."""
    found: dict[str, list] = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value))
    return found


def test_lines_appear_at_once(tmp_path):
    with Writers(tmp_path, tensorboard=False) as writers:
        writers.write(10, {"loss": 0.5, "epoch": 1.25})
        assert read(tmp_path / "metrics.jsonl") == [{"step": 10, "loss": 0.5, "epoch": 1.25}]
        writers.write(20, {"step": 999, "skipped": np.int32(3)})
        assert read(tmp_path / "metrics.jsonl")[1] == {"step": 20, "skipped": 3}
    assert not (tmp_path / "tensorboard").exists()


def test_curves_do_not_bring_torch_in(tmp_path):
    code = (
        "import sys; from mim_jax.training.metrics import Writers; w = Writers(sys.argv[1]); w.write(1, {'loss': 1.0})"
    )
    code += "; w.close(); assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert "loss" in curves(tmp_path / "tensorboard")


def test_float32_comes_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    with Writers(tmp_path, tensorboard=False) as writers:
        for step, value in enumerate(values):
            writers.write(step, {"loss": jnp.asarray(value)})
    got = np.array([line["loss"] for line in read(tmp_path / "metrics.jsonl")], np.float32)
    np.testing.assert_array_equal(got.view(np.uint32), values.view(np.uint32))


def test_what_is_not_finite_stays_valid_json(tmp_path):
    line = json_line(3, {"loss": float("nan"), "norm": float("inf"), "low": float("-inf"), "lr": 0.1})
    got = json.loads(line, parse_constant=refuse)
    nonfinite = {"loss": "nan", "norm": "inf", "low": "-inf"}
    assert got == {"step": 3, "loss": None, "norm": None, "low": None, "lr": 0.1, "nonfinite": nonfinite}
    with Writers(tmp_path) as writers:
        writers.write(1, {"loss": jnp.nan})
    assert read(tmp_path / "metrics.jsonl")[0]["loss"] is None


def test_resuming_cuts_later_steps_and_half_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json_line(step, {"loss": step}) for step in (1, 2, 3, 4)] + [json_line(3, {"val_loss": 9.0})]
    path.write_text("\n".join(lines) + '\n{"step": 2, "lo')
    with Writers(tmp_path, tensorboard=False, resumed_step=3) as writers:
        writers.write(4, {"loss": 44})
    assert [(line["step"], line.get("loss")) for line in read(path)] == [(1, 1), (2, 2), (3, 3), (3, None), (4, 44)]


def test_without_a_step_only_half_lines_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 7}\n\n[1]\n{"loss": 1}\n{"step": 8, "x": "\xff')
    cut_lines(path, None)
    assert path.read_text() == '{"step": 7}\n'
    cut_lines(tmp_path / "absent.jsonl", 3)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_starting_over_leaves_an_empty_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n')
    Writers(tmp_path, tensorboard=False, resumed_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard_holds_curves_and_pictures(tmp_path):
    with Writers(tmp_path) as writers:
        for step in (10, 20):
            writers.write(step, {"loss": 1.0 / step})
        writers.write_image(20, "reconstruction", np.full((4, 6, 3), 200, np.uint8))
        writers.write_image(20, "mask", np.ones((4, 6), np.float32))
    found = curves(tmp_path / "tensorboard")
    assert [step for step, _ in found["loss"]] == [10, 20]
    np.testing.assert_allclose([value.simple_value for _, value in found["loss"]], [0.1, 0.05], rtol=1e-6)
    for name in ("reconstruction", "mask"):
        ((step, value),) = found[name]
        assert (step, value.image.height, value.image.width) == (20, 4, 6)


def test_tensorboard_is_told_which_points_to_forget(tmp_path):
    with Writers(tmp_path, resumed_step=20) as writers:
        writers.write(30, {"loss": 1.0})
    starts = [event.step for event in events(tmp_path / "tensorboard") if event.session_log.status == 1]  # START
    assert starts == [21]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Writers(tmp_path / "run", wandb="project") as writers:
        writers.write(1, {"loss": 1.0})
        writers.write_image(1, "picture", np.zeros((2, 2, 3), np.uint8))
    assert not (tmp_path / "run").exists()


def test_wandb_that_is_missing_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="training.wandb is 'mine' but the package wandb is not installed"):
        Writers(tmp_path, wandb="mine")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_wandb_continues_the_run_of_the_workdir(tmp_path, monkeypatch):
    calls: list = []
    run = types.SimpleNamespace(log=lambda *a, **k: calls.append(("log", a, k)), finish=lambda: calls.append("finish"))
    fake = types.SimpleNamespace(
        init=lambda **k: calls.append(k) or run,
        util=types.SimpleNamespace(generate_id=lambda: f"id{len(calls)}"),
        Image=lambda image: ("image", image.shape),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with Writers(tmp_path, tensorboard=False, wandb="mine", config={"seed": 1}) as writers:
            writers.write(3, {"loss": 0.5})
            writers.write_image(3, "grid", np.zeros((2, 4, 3), np.uint8))
    starts = [c for c in calls if isinstance(c, dict)]
    assert [(s["project"], s["id"], s["resume"], s["config"]) for s in starts] == [
        ("mine", "id0", "allow", {"seed": 1})
    ] * 2
    assert ("log", ({"loss": 0.5},), {"step": 3}) in calls
    assert ("log", ({"grid": ("image", (2, 4, 3))},), {"step": 3}) in calls
    assert calls.count("finish") == 2
