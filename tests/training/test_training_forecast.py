"""What a run would take: the roofline by hand, the formula against the program, the words for mistakes."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from mim_jax import cli
from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.methods import registry
from mim_jax.training import compile_ahead, flops, forecast, hardware, roofline
from mim_jax.training.sharding import AXES
from mim_jax.training.traced import Cost, Part, cost, size_of

SMALL = ["model.depth=2", "method.decoder_depth=1", "model.width=32", "model.heads=2", "method.decoder_width=16"]
MIB = 2.0**20


@pytest.fixture(scope="module")
def config(root):
    return configs.load(str(root / "configs/mae/digits.py"), [*SMALL, "method.decoder_heads=2", "training.epochs=10"])


@pytest.fixture(scope="module")
def method(config):
    return registry.build(config)


@pytest.fixture(scope="module")
def traced(config, method):
    return cost(config, method)


def chip(**changes):
    made = hardware.Chip("x", "TPU v5e", "tpu", 16e9, 100e9, 10e9, 4, 1e9, 2)
    return dataclasses.replace(made, **changes)


def test_a_roofline_by_hand():
    work = roofline.Work(flops=197e12, memory_bytes=50e9, network_bytes=4e9, images=10.0)
    timed = roofline.step(work, chip(), 2, "bf16", efficiency=0.5, per_core=100.0)
    # 1 s of arithmetic and 0.5 s of memory, both at half the rate; 2 x 4 GB x 1/2 over 10 GB/s; 10 images by 2 cores.
    assert timed.parts == pytest.approx({"compute": 2.0, "memory": 1.0, "network": 0.4, "input": 0.05})
    assert (timed.seconds, timed.bound, timed.roofline) == (2.0, "compute", 1.0)
    slow = roofline.step(dataclasses.replace(work, memory_bytes=400e9), chip(), 2, "bf16", efficiency=0.5)
    assert slow.bound == "memory" and slow.roofline == pytest.approx(0.25)
    row = roofline.as_row(chip(), 2, 20, timed, work, "bf16")
    assert row["images_per_second"] == 10.0 and row["mfu"] == pytest.approx(0.5)


def test_the_network_counts_every_chip_and_leaves_its_domain():
    assert roofline.network_seconds(chip(), 1, 1e9) == 0.0
    assert roofline.network_seconds(chip(), 4, 1e9) == pytest.approx(2 * 1e9 * 3 / 4 / 10e9)
    assert roofline.network_seconds(chip(), 8, 1e9) == pytest.approx(2 * 1e9 * 7 / 8 / 1e9)
    assert roofline.images_per_core([(1, 224, 224, 3)]) == 100.0
    assert roofline.images_per_core([(1, 2, 224, 224, 3)]) == 50.0
    assert roofline.images_per_core([(1, 32, 32, 3)]) == pytest.approx(4900.0)


@pytest.mark.parametrize("known", hardware.CHIPS.values(), ids=lambda c: c.name)
def test_published_figures_are_in_their_units(known):
    assert known.peak("bf16") == flops.peak_flops(known, "bf16") and 1e14 < known.peak("bf16") < 1e15
    assert 15e9 < known.memory < 150e9 and 8e11 < known.bandwidth < 5e12
    # Arithmetic per byte of memory and per byte of link: all of these machines lie within one order of magnitude.
    assert 100 < known.peak("bf16") / known.bandwidth < 600 and 500 < known.peak("bf16") / known.link < 4000


def test_the_formula_by_hand():
    made = Cost({"m": Part(1.0, 2.0, 0.5)}, (10.0, 100.0), (5.0, 50.0), 1000.0, 300.0, 70.0, 1.0, 75)
    assert made.parts["m"].total == 3.5
    assert made.step_bytes(8) == 8 * (10 + 2 * 5) + 100 + 2 * 50 + 2 * 1000 + 2 * 300
    assert made.memory(8) == pytest.approx(1000 + 300 + 70 + 8 * 1 + 0.6 * (8 * 5 + 50))
    assert made.memory(8, micro=4, split=2) == pytest.approx(500 + 150 + 300 + 70 + 8 + 0.6 * (2 * 5 + 50))
    assert made.memory(made.largest(5000.0)) <= 5000.0 < made.memory(made.largest(5000.0) + 1)
    assert made.largest(10.0) == 0


def test_the_traced_program_is_that_of_the_run(config, method, traced):
    v = jax.eval_shape(
        method.init, jax.random.key(0), jax.eval_shape(lambda: {"image": jax.numpy.zeros((8, 32, 32, 1))})
    )
    assert traced.parameters == sum(leaf.size for leaf in jax.tree.leaves(v.params))
    assert traced.gradients == size_of(v.params)
    assert 3 * traced.gradients <= traced.state < 3 * traced.gradients + 1000  # parameters and Adam's two moments
    assert traced.image == 32 * 32 + 8  # pixels, record number, label
    assert set(traced.parts) == {"Vit", "MaeDecoder"}
    products = sum(part.total for part in traced.parts.values())
    assert 0.8 * method.flops() < products < method.flops()  # these narrow models do much that is no product


def test_rematerialisation_is_seen(config, traced):
    other = config.copy_and_resolve_references()
    other.model.remat = "full"
    again = cost(other, registry.build(other))
    assert again.kept[0] < 0.5 * traced.kept[0]
    assert again.parts["Vit"].again > 0 and traced.parts["Vit"].again == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_a_forecast(config, method, steps):
    found = forecast.forecast(config, method, devices=("v5e", "h100"), chips=4, images=640, measure=steps)
    json.dumps(found)
    assert found["flops_per_image"] == method.flops() and found["training_images"] == 640
    for row in found["rows"]:
        assert row["chips"] == 4 and row["batch_per_chip"] == 16 and row["fits"]
        assert row["hours"] == pytest.approx(10 * 640 / row["images_per_second"] / 3600)
        assert row["chip_hours"] == pytest.approx(4 * row["hours"])
        assert row["bound"] in row["seconds"] and row["largest_batch_per_chip"] > 16
    assert ("measured" in found) == bool(steps)
    if steps:
        measured = found["measured"]
        assert measured["error"] == pytest.approx(
            measured["expected_images_per_second"] / measured["images_per_second"] - 1
        )


def test_where_the_number_of_images_comes_from(config):
    assert forecast.training_images(config, 7) == 7
    assert forecast.training_images(config) == 1438
    other = config.copy_and_resolve_references()
    other.data.source = "folder:no/such/imagenet2012"
    assert forecast.training_images(other) == 1_281_167
    other.data.source = "folder:no/such/place"
    assert forecast.training_images(other) is None


def test_the_mesh_must_fit(config):
    other = config.copy_and_resolve_references()
    other.mesh.fsdp = 4
    assert forecast.mesh_sizes(other, 8) == dict(zip(AXES, (2, 4, 1), strict=True))
    with pytest.raises(ConfigError, match="does not fit 6 chips; give another --chips"):
        forecast.mesh_sizes(other, 6)


def test_the_step_compiled_for_the_devices_at_hand(config, method):
    found = compile_ahead.compile_step(config, method)
    assert (found.chips, found.batch_per_chip) == (8, 8.0)
    assert found.model_flops == pytest.approx(method.flops() * 8)
    assert found.memory["total"] > 0 and found.memory_bytes > 0 and 0 <= found.copied <= found.memory_bytes
    assert set(found.collectives) == {"all-reduce"} and found.network_bytes > 0


def test_a_program_that_jaxlib_cannot_print_is_reported_by_xla_s_count(config, method, monkeypatch):
    lowered = compile_ahead.lower(config, method)
    compiled = lowered.compile()

    class Unprintable:
        cost_analysis, memory_analysis = compiled.cost_analysis, compiled.memory_analysis

        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    found = compile_ahead.report(config, method, lowered, Unprintable())
    assert not found.readable and found.memory_bytes == found.xla_bytes > 0 and found.collectives == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v9:2x2", "topology 'v9:2x2' is of no TPU that is known here"),
        ("v5e:2x2x2", "v5e is laid out in 2 dimensions, such as v5e:4x4"),
        ("v4:2x2", "v4 is laid out in 3 dimensions, such as v4:2x2x4"),
        ("v5e:ax2", "v5e is laid out in 2 dimensions"),
    ],
)
def test_an_unknown_topology_is_one_sentence(name, words):
    with pytest.raises(ConfigError, match=words):
        compile_ahead.chips_of(name)
    assert compile_ahead.chips_of("v5e:4x4") == ("v5e", 16)


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(compile_ahead, "has_tpu_compiler", lambda: False)
    with pytest.raises(ConfigError, match=r"needs the TPU compiler.*pip install 'mim_jax\[tpu\]'"):
        compile_ahead.tpu_topology("v5e:2x2")


class Straight:
    """A step whose memory is a straight line in the batch; counts how often it is compiled."""

    def __init__(self, fixed: float, slope: float, memory: float):
        self.fixed, self.slope, self.limit, self.tried = fixed, slope, memory, []

    def __call__(self, config, method, devices=None):
        per_chip = config.training.batch_size // 8
        self.tried.append(per_chip)
        total = self.fixed + self.slope * per_chip
        if total > self.limit:
            raise compile_ahead.TooLarge("too large", total)
        memory = {"total": int(total), "temporaries": int(total / 2)}
        return compile_ahead.Report(8, float(per_chip), memory, 1.0, 1.0, 1.0, 1.0, 0.0, {}, 0.0, 0)


@pytest.mark.parametrize("slope", [3 * MIB, 40 * MIB])
def test_the_largest_batch_is_found_in_few_compiles(config, method, monkeypatch, slope):
    step = Straight(500 * MIB, slope, 16e9)
    monkeypatch.setattr(compile_ahead, "compile_step", step)
    known = step(compile_ahead.with_batch(config, 8 * 8), method)
    most, found = compile_ahead.largest_batch(config, method, jax.devices(), 16e9, known)
    exact = (16e9 - 500 * MIB) / slope
    assert 0.9 * exact < most <= exact and most % 8 == 0 and found.batch_per_chip == most
    assert len(step.tried) <= 5


def test_the_command(root, capsys):
    line = [f"--config={root / 'configs/mae/digits.py'}", *(f"--config.{key}" for key in SMALL), "--device", "v5e"]
    line.append("--config.method.decoder_heads=2")
    assert cli.main(["plan", *line, "--chips", "2", "--batch-size", "32", "--images", "320"]) == 0
    shown = capsys.readouterr().out
    assert "batch 32, 25 epochs, 320 images" in shown and "Assumed, not measured: 50%" in shown
    assert "v5e     2" in shown and "formula" in shown
    assert cli.main(["plan", *line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["device"] == "v5e"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "v5f"], "device 'v5f' is not known; did you mean 'v5"),
        (["--topology", "v5x:2x2"], "topology 'v5x:2x2' is of no TPU that is known here"),
        (["--chips", "none"], "'none' is not a whole number above 0"),
        (["--efficiency", "2"], "'2' is not a share between 0 and 1"),
        (["--device", "v5e", "--chips", "3", "--config.mesh.fsdp=2"], "does not fit 3 chips"),
    ],
)
def test_mistakes_are_one_sentence(root, words, said, capsys):
    assert cli.main(["plan", f"--config={root / 'configs/mae/digits.py'}", *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


@pytest.mark.slow
def test_the_tpu_compiler_and_the_formula(config, method):
    if not compile_ahead.has_tpu_compiler():
        pytest.skip("libtpu is not installed: pip install 'mim_jax[tpu]'")
    for name, chips in (("v5e:2x2", 4), ("v4:2x2x1", 4)):
        topology = compile_ahead.tpu_topology(name)
        assert len(topology.devices) == chips
    found = forecast.forecast(config, method, devices=("v5e",), topology="v5e:2x2")
    compiled, formula = found["rows"]
    assert compiled["source"] == "compiler" and compiled["chips"] == formula["chips"] == 4
    assert set(compiled["collectives"]) == {"all-reduce"}
    assert compiled["hbm_bytes"] <= compiled["xla_bytes_accessed"]
    with pytest.raises(compile_ahead.TooLarge, match="lower training.batch_size"):
        compile_ahead.compile_step(compile_ahead.with_batch(config, 2**22), method, topology.devices)
