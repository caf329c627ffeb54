"""Segmentation and depth: scores against scikit-learn and NumPy, windows against a plain loop, whole protocols."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score

from mim_jax import recipes
from mim_jax.config import override
from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import Pair
from mim_jax.errors import CheckpointError, ConfigError, DataError
from mim_jax.evaluation.dense import windows
from mim_jax.evaluation.dense.depth import Depth
from mim_jax.evaluation.dense.inference import Inference, fill_up, filled
from mim_jax.evaluation.dense.scores import confusion, depth_scores, segmentation_scores
from mim_jax.evaluation.dense.segmentation import Segmentation
from mim_jax.evaluation.dense.training import CrossEntropy, LogDepth, Plan
from mim_jax.evaluation.dense.trunk import Trunk, own_vit, resolve_blocks
from mim_jax.evaluation.encoders import Encoder, raw_pixels
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.beit import BEiT
from mim_jax.models.dense_heads import LinearHead
from mim_jax.recipes import dense as dense_recipes
from mim_jax.training.sharding import make_mesh


def test_scores_are_scikit_learn_s():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(-1, 5, (3, 17, 9)), random.integers(0, 6, (3, 17, 9))
    labels[labels == 3] = 2  # class 3 is predicted but never right, class 5 too; class 6 is nowhere
    matrix = np.asarray(confusion(jnp.asarray(predicted), jnp.asarray(labels), classes=7))
    truth, found = labels[labels >= 0], predicted[labels >= 0]
    np.testing.assert_array_equal(matrix, confusion_matrix(truth, found, labels=range(7)))
    metrics, details = segmentation_scores(matrix)
    present = sorted(set(truth) | set(found))
    wanted = jaccard_score(truth, found, labels=present, average=None)
    assert metrics["miou"] == pytest.approx(wanted.mean())
    np.testing.assert_allclose([x for x in details["iou"] if x is not None], wanted, atol=1e-6)
    assert details["iou"][6] is None
    assert metrics["macc"] == pytest.approx(recall_score(truth, found, labels=sorted(set(truth)), average="macro"))
    assert metrics["aacc"] == pytest.approx((truth == found).mean())


def test_depth_scores_are_the_definition():
    truth = np.array([[1.0, 2.0, 0.0], [4.0, 8.0, 0.0]])
    predicted = np.array([[1.2, 2.0, 5.0], [3.0, 9.0, 7.0]])
    found = depth_scores(predicted, truth)
    assert found["rmse"] == pytest.approx(np.sqrt((0.04 + 0 + 1 + 1) / 4))
    assert found["abs_rel"] == pytest.approx((0.2 + 0 + 0.25 + 0.125) / 4)
    assert found["delta1"] == 0.75  # 4 / 3 is more than 1.25
    scaled = depth_scores(predicted * 7, truth, "median")
    again = depth_scores(predicted * 3.0 / 2.5, truth)
    assert scaled["rmse"] == pytest.approx(again["rmse"])
    assert depth_scores(predicted, np.zeros((2, 3))) is None


@pytest.mark.parametrize(
    ("size", "crop", "stride"), [((9, 14), (6, 6), (4, 4)), ((6, 6), (6, 6), (4, 4)), ((7, 20), (5, 8), (5, 3))]
)
def test_windows_cover_everything_and_average_as_a_plain_loop(size, crop, stride):
    places = windows.corners(size, crop, stride)
    outputs = np.random.default_rng(0).normal(size=(len(places), *crop, 3)).astype(np.float32)
    total, count = np.zeros((*size, 3)), np.zeros((*size, 1))
    for (top, left), output in zip(places, outputs, strict=True):
        assert 0 <= top <= size[0] - crop[0] and 0 <= left <= size[1] - crop[1]
        total[top : top + crop[0], left : left + crop[1]] += output
        count[top : top + crop[0], left : left + crop[1]] += 1
    assert count.min() >= 1
    canvas = (size[0] + 2, size[1] + 3)
    more = np.concatenate([outputs, np.full((1, *crop, 3), 1e6, np.float32)])
    found = windows.averaged(
        more,
        np.concatenate([places, [[0, 0]]]).astype(np.int32),
        np.arange(len(more)) < len(places),
        crop=crop,
        canvas=canvas,
    )
    np.testing.assert_allclose(found[: size[0], : size[1]], total / count, rtol=1e-5, atol=1e-6)
    assert not np.any(found[size[0] :]) and not np.any(found[:, size[1] :])


@pytest.mark.parametrize(("old", "new"), [((4, 5), (9, 7)), ((8, 8), (3, 5)), ((1, 3), (2, 3))])
def test_resizing_by_taps_is_bilinear(old, new):
    x = np.random.default_rng(0).normal(size=(*old, 2)).astype(np.float32)
    wanted = jax.image.resize(x, (*new, 2), "bilinear", antialias=False)
    rows, columns = (windows.taps(a, b, b + 3) for a, b in zip(old, new, strict=True))
    found = windows.resized(jnp.asarray(np.pad(x, ((0, 2), (0, 2), (0, 0)), constant_values=99.0)), rows, columns)
    np.testing.assert_allclose(found[: new[0], : new[1]], wanted, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class _Colours:
    """A plan whose prediction is the image itself."""

    def predict(self, state, variables, images):
        del state, variables
        return images.astype(jnp.float32)


@pytest.mark.parametrize("together", [1, 5])
def test_inference_gives_every_image_back_at_the_size_of_its_map(together):
    """Windows of an identity, averaged and resized, are the resized image: for larger, smaller and odd images."""
    random = np.random.default_rng(0)
    pairs = []
    for i, size in enumerate([(16, 16), (21, 40), (70, 33), (9, 30)]):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        pairs.append(Pair(image, np.zeros(size, np.int32), str(i)))
    view = PairView((16, 16), 16, 1000)
    infer = Inference(_Colours(), {}, {}, view, (10, 10), together)
    for pair, (same, output) in zip(pairs, infer(pairs), strict=True):
        assert same is pair and output.shape[:2] == filled(pair.map.shape)
        seen = view.test(pair, whole=False).astype(np.float32)
        wanted = jax.image.resize(seen, (*pair.map.shape, 3), "bilinear", antialias=False)
        np.testing.assert_allclose(output[: pair.map.shape[0], : pair.map.shape[1]], wanted, atol=1e-3)


def test_what_is_filled_up_does_not_count():
    labels = np.zeros((70, 65), np.int32)
    assert fill_up(labels, -1).shape == (128, 128) and (fill_up(labels, -1) >= 0).sum() == 70 * 65


def test_losses_are_the_definition():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(2, 4, 4, 3)).astype(np.float32), random.integers(-1, 3, (2, 4, 4))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -sum(
        logs[i][labels[i] >= 0][np.arange((labels[i] >= 0).sum()), labels[i][labels[i] >= 0]].sum() for i in (0, 1)
    )
    found = CrossEntropy(0.5)(jnp.asarray(logits), jnp.asarray(logits), jnp.asarray(labels), 0)
    assert float(found) == pytest.approx(1.5 * wanted / labels.size, rel=1e-5)
    predicted, truth = random.uniform(1, 5, (2, 4, 4)), random.uniform(1, 5, (2, 4, 4))
    truth[0, 0] = 0
    error = (np.log(predicted + 1e-3) - np.log(truth + 1e-3))[truth > 0]
    arguments = jnp.asarray(predicted[..., None], jnp.float32), None, jnp.asarray(truth, jnp.float32)
    assert float(LogDepth()(*arguments, 200)) == pytest.approx(
        10 * np.sqrt(error.var(ddof=1) + 0.15 * error.mean() ** 2), rel=1e-4
    )
    assert float(LogDepth()(*arguments, 0)) == pytest.approx(10 * np.sqrt(0.15) * abs(error.mean()), rel=1e-4)


def test_the_rate_warms_up_and_falls_to_its_minimum():
    plan = Plan(Trunk(None), LinearHead(2), CrossEntropy(), (0.5,), (0.5,), (8, 8, 3), 100, 4, 1.0, 0.1, 10)
    assert float(plan.rate(0)) < 1e-5 and float(plan.rate(5)) == pytest.approx(0.5 * (0.9 * 0.95 + 0.1), rel=1e-4)
    assert float(plan.rate(10)) == pytest.approx(0.91) and float(plan.rate(100)) == pytest.approx(0.1)


def test_blocks_are_chosen_as_in_the_papers(build):
    method, _ = build(depth=12)
    resolve = lambda asked, spread: resolve_blocks(method, asked, spread, "blocks")  # noqa: E731
    assert resolve((), False) == () and resolve((), True) == (3, 5, 7, 11)
    assert resolve((-4, -3, -2, -1), False) == (8, 9, 10, 11)
    with pytest.raises(ConfigError, match="the blocks 1 to 12, not 13"):
        resolve((13,), False)
    with pytest.raises(ConfigError, match="four blocks"):
        resolve((1, 2), True)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """40 images of two sizes: dark and bright rectangles on grey; the label is the brightness, the depth too."""
    root, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for name in ("images", "labels", "depth"):
        (root / name).mkdir()
    for i in range(40):
        size = (16, 16) if i % 2 else (20, 28)
        labels = np.zeros(size, np.uint8)
        for value in (1, 2):
            top, left = (4 * random.integers(0, side // 4 - 1) for side in size)
            labels[top : top + 8, left : left + 8] = value
        colours = np.array([128, 30, 230])[labels][..., None] + random.normal(0, 12, (*size, 3))
        Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(np.where(random.random(size) < 0.05, 255, labels).astype(np.uint8)).save(
            root / "labels" / f"{i}.png"
        )
        np.save(root / "depth" / f"{i}.npy", np.array([2.0, 1.0, 4.0], np.float32)[labels])
    return root


def config_of(scenes, *changes):
    config = recipes.pretrain()
    config.data.update(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), threads=2)
    config.data.views.image.size = (16, 16)
    section = config.evaluation.segmentation
    section.update(source=f"folder:{scenes}/images?map={scenes}/labels", classes=3, steps=60, warmup_steps=5, lr=0.02)
    section.update(batch_size=8, scale=(0.8, 1.25), photometric=False)
    section = config.evaluation.depth
    section.update(source=f"folder:{scenes}/images?map={scenes}/depth", steps=250, warmup_steps=5, lr=0.02, bins=32)
    section.update(batch_size=8, upsample=1, high=5.0)
    return override(config, list(changes))


def task_of(config, encoder, **settings):
    return Task(encoder, config.data, (), batch_size=8, seed=0, say=lambda _: None, **settings)


def encoder_of(build, **tiny):
    method, variables = build(**tiny)
    return Encoder("pretrained", variables, method)


def one_device():
    return make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


def judge(kind, config, encoder, **settings):
    settings.setdefault("mesh", one_device())
    return kind.from_config(config.evaluation).run(task_of(config, encoder, **settings))


def test_a_linear_head_finds_what_is_there(scenes, build):
    numbers = judge(Segmentation, config_of(scenes), encoder_of(build))
    common = numbers.details["always the commonest class"]
    assert numbers.metrics["miou"] > common["miou"] + 0.1 and numbers.metrics["aacc"] > common["aacc"]
    assert numbers.counts["train"] == 36 and numbers.counts["eval"] == 4 and numbers.counts["classes_in_eval"] == 3
    sizes = [np.asarray(Image.open(scenes / "labels" / f"{i}.png")) for i in range(40)]
    assert numbers.counts["pixels"] < sum(s.size for s in sizes) / 2
    assert numbers.settings["stride"] == [10, 10] and numbers.settings["blocks"] == []


def test_every_pixel_with_a_label_counts_once(scenes, build):
    config = config_of(
        scenes,
        "evaluation.segmentation.steps=6",
        f"evaluation.segmentation.eval_source=folder:{scenes}/images?map={scenes}/labels",
    )
    numbers = judge(Segmentation, config, encoder_of(build))
    labels = [np.asarray(Image.open(path)) for path in sorted((scenes / "labels").iterdir())]
    assert numbers.counts["pixels"] == sum(int((x != 255).sum()) for x in labels) and numbers.counts["eval"] == 40


def test_the_number_of_devices_does_not_change_the_scores(scenes, build):
    config, encoder = config_of(scenes, "evaluation.segmentation.steps=12"), encoder_of(build)
    single, many = judge(Segmentation, config, encoder), judge(Segmentation, config, encoder, mesh=None)
    for name, value in single.metrics.items():
        assert many.metrics[name] == pytest.approx(value, abs=0.02)
    assert many.details["train_loss"] == pytest.approx(single.details["train_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        (
            "head=upernet",
            "channels=8",
            "encoder=finetune",
            "drop_path_rate=0.2",
            "layer_decay=0.75",
            "lr=0.005",
            "steps=40",
        ),
        ("blocks=(-2, -1)", "inference=whole"),
        ("test_scales=0.75,1,1.5", "test_flip=true", "steps=40"),
    ],
)
def test_other_heads_learn_too(scenes, build, changes):
    config = config_of(scenes, *(f"evaluation.segmentation.{change}" for change in changes))
    numbers = judge(Segmentation, config, encoder_of(build))
    assert numbers.metrics["miou"] > numbers.details["always the commonest class"]["miou"] + 0.1


def test_raw_pixels_and_hierarchies_serve(scenes):
    from mim_jax.methods.spark import SparK

    config = config_of(scenes, "evaluation.segmentation.steps=40")
    numbers = judge(Segmentation, config, raw_pixels())
    assert numbers.metrics["miou"] > numbers.details["always the commonest class"]["miou"]
    method = SparK.tiny(image_size=(32, 32))
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 32, 32, 3))})
    found = resolve_blocks(method, (), True, "blocks")
    maps = jax.eval_shape(
        lambda v, x: Trunk(method, found, normed=False).maps(v, None, x), shapes, jnp.zeros((2, 32, 32, 3))
    )
    assert [x.shape[1] for x in maps] == [16, 8]


def test_fine_tuning_moves_the_encoder_and_a_frozen_one_stays(build):
    method, variables = build()
    plan = Plan(
        Trunk(method, vit=own_vit(method, (16, 16), True, 0.1, "encoder"), trained=True),
        LinearHead(3), CrossEntropy(), (0.5,), (0.5,), (16, 16, 3), 10, 8, 0.1, layer_decay=0.5,
    )  # fmt: skip
    from mim_jax.evaluation.dense.training import train_step

    state = plan.init(plan.trunk.fitted(variables), jax.random.key(0))
    before = jax.tree.map(np.asarray, state.params)
    batch = {"image": jnp.ones((8, 16, 16, 3), jnp.uint8), "map": jnp.ones((8, 16, 16), jnp.int32)}
    state, _ = train_step(plan, state, variables, batch, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, state.params)
    first, last = (moved["encoder"][f"blocks_{i}"]["mlp"]["fc1"]["kernel"] for i in (0, 1))
    assert first > 0 and first == pytest.approx(
        last / 2, rel=0.05
    )  # Adam's first step is the rate, whatever the gradient
    assert "mask_token" not in state.params["encoder"]
    frozen = dataclasses.replace(plan, trunk=Trunk(method))
    assert set(frozen.init(variables, jax.random.key(0)).params) == {"head"}


@pytest.mark.parametrize("trained", [False, True])
def test_positions_of_another_grid_are_fitted(trained):
    """BEiT's relative positions on a larger crop; on its own crop the fitted encoder is the method's own."""
    method = BEiT.tiny()
    views = {name: jnp.zeros(shape.array(1)) for name, shape in method.views().items()}
    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.3, s.shape), s.dtype), shapes)
    for side in (16, 32):
        vit = own_vit(method, (side, side), trained, 0.0, "encoder")
        trunk = Trunk(method, (0, 1), vit=vit, trained=trained)
        images = jnp.asarray(random.normal(size=(2, side, side, 3)), jnp.float32)
        fitted = trunk.fitted(variables)
        maps = jax.jit(trunk.maps)(fitted, fitted.params, images)
        assert maps[0].shape[:3] == (2, side // 4, side // 4) and np.isfinite(maps[1]).all()
        if side == 16:
            own = Trunk(method, (0, 1)).maps(variables, None, images)
            np.testing.assert_allclose(maps[1], own[1], atol=1e-4)


def test_depth_learns_the_brightness(scenes, build):
    numbers = judge(Depth, config_of(scenes), encoder_of(build))
    truth = np.concatenate([np.load(path).ravel() for path in (scenes / "depth").iterdir()])
    assert numbers.metrics["rmse"] < 0.9 * truth.std()
    assert numbers.units == {"rmse": "m", "abs_rel": "1"} and 0 < numbers.metrics["delta1"] <= 1
    assert numbers.counts["eval_with_depth"] == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("source=", "source is empty; name pairs"),
        ("classes=0", "say how many classes"),
        ("recipe=ade20k-uppernet-mae", "did you mean 'ade20k-upernet-mae'"),
        ("warmup_steps=60", "below evaluation.segmentation.steps = 60"),
        ("stride=(17, 8)", "leaves gaps"),
        ("test_scales=0.5,0", "must be one or more numbers above 0"),
        ("test_scales=0.5,1 inference=whole", "needs evaluation.segmentation.inference = slide"),
    ],
)
def test_settings_that_do_not_serve(scenes, build, change, sentence):
    changes = [f"evaluation.segmentation.{part}" for part in (change.split() if "whole" in change else [change])]
    with pytest.raises(ConfigError, match=sentence):
        judge(Segmentation, config_of(scenes, *changes), encoder_of(build))


def test_data_that_does_not_serve(scenes, build):
    with pytest.raises(DataError, match=r"has the label 2, beyond 2 classes"):
        judge(Segmentation, config_of(scenes, "evaluation.segmentation.classes=2"), encoder_of(build))
    with pytest.raises(DataError, match="no depth between"):
        judge(Depth, config_of(scenes, "evaluation.depth.low=4.5", "evaluation.depth.steps=6"), encoder_of(build))


def test_an_encoder_that_gives_no_numbers_is_named(scenes, build):
    encoder = encoder_of(build)
    variables = encoder.variables.replace(params=jax.tree.map(lambda x: x * jnp.nan, encoder.variables.params))
    broken = dataclasses.replace(encoder, variables=variables)
    with pytest.raises(CheckpointError, match="arrays of the encoder hold NaN"):
        judge(Segmentation, config_of(scenes, "evaluation.segmentation.steps=6"), broken)


def test_a_recipe_fills_what_stands_at_its_default():
    evaluation = recipes.pretrain().evaluation
    evaluation.segmentation.update(recipe="ade20k-upernet-beit", source="folder:a?map=b", steps=77, warmup_steps=7)
    found = Segmentation.from_config(evaluation)
    assert (found.classes, found.offset, found.crop, found.stride) == (150, 1, (512, 512), (341, 341))
    assert (found.head, found.encoder, found.lr, found.layer_decay) == ("upernet", "finetune", 7e-4, 0.65)
    assert (found.steps, found.weight_decay, found.drop_path_rate) == (77, 0.05, 0.1)
    for name, recipe in dense_recipes.SEGMENTATION_RECIPES.items():
        assert set(recipe) <= set(dense_recipes.segmentation()), name
