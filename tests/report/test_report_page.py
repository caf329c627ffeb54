"""The page is whole, says what the run holds, loads nothing from elsewhere and trusts no text."""

from __future__ import annotations

import base64
import errno
import html.parser
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import CheckpointError
from mim_jax.report import metrics, pictures, slider, style
from mim_jax.report.page import write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "<script>alert('x')</script>&\""


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.programs: list[str] = []
        self.open: list[str] = []
        self.feed(text.replace("<wbr>", ""))  # a place where a word may be broken
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)
        else:
            self.programs.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str, name: str) -> list:
        return [values.get(name) for found, values in self.tags if found == tag]


def result(**changes):
    entry = {
        "protocol": "knn",
        "feature": "pooled",
        "metrics": {"top1_k10": 0.9123},
        "baselines": {"untrained": {"top1_k10": 0.5}, "pixels": {"top1_k10": 0.81}},
        "counts": {"train": 100, "eval": 10, "classes": 10},
        "checkpoint": {"step": 7, "hash": "ab"},
        "command": "mim-jax eval runs/x --knn --step 7",
        "time": "2025-01-01T00:00:00+00:00",
    }
    return entry | changes


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    config = recipes.pretrain()
    config.method.name = "mae"
    config.data.source = f"folder:{HOSTILE}"
    configs.save(config, folder / "config.json")
    return folder


@pytest.fixture
def full_run(run):
    lines = [{"step": s, "loss": 1 / s, "lr": 1e-3} for s in (1, 2, 4)] + [{"step": 4, "knn": 0.5, "val_loss": 0.3}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (run / "resolved.json").write_text(json.dumps({"method": "mae", "steps": {"total": 4000, "per epoch": 2}}))
    (run / "eval.json").write_text(
        json.dumps(
            [result(), result(protocol=HOSTILE, metrics={"top1": 0.25}, baselines={}, time="2025-01-02T00:00:00+00:00")]
        )
    )
    for step in range(1, 11):
        pictures.save(np.zeros((4, 4, 3), np.uint8), run / "pictures" / f"step_{step:08d}.png")
    return run


def test_a_run_that_has_just_begun(run):
    """Also one of an older version, which left no events, no results and no facts."""
    page = Page(write_page(run).read_text())
    assert "img" not in [tag for tag, _ in page.tags]
    titles = ("Reconstructions", "Curves", "Results", "Analysis", "Events", "Environment")
    assert not any(title in page.text for title in titles) and "Run it again" in page.text
    assert page.attributes("html", "lang") == ["en"] and ("title", {}) in page.tags


def test_everything_is_said(full_run):
    page = Page(write_page(full_run).read_text())
    for words in (
        "91.23",
        "50.00",
        "81.00",
        "untrained encoder",
        "raw pixels",
        "4 of 4,000",
        "0.2500",
        "0.3000",
        "50.0%",
    ):
        assert words in page.text
    assert "mim-jax eval runs/x --knn --step 7" in page.text
    assert "mim-jax train --config" in page.text and "optimizer.weight_decay" in page.text
    assert "top-1, k = 10" in page.text
    assert page.text.index("25.00") < page.text.index("91.23")  # newest first


def test_what_differs_from_the_recipe_stands_beside_it(run):
    config = recipes.pretrain()
    config.method.name = "mae"
    config.optimizer.lr = 7e-4
    config.data.views.other = recipes.view((96, 96))
    configs.save(config, run / "config.json")
    (run / "changes.jsonl").write_text('{"step": 3, "key": "training.epochs", "before": 2.0, "after": 5.0}\n')
    before = Page(write_page(run).read_text()).text.partition("every setting")[0]
    assert "different from the recipe (2 of" in before
    assert "optimizer.lr 0.00015 0.0007" in before and "data.views.other.size (224, 224) (96, 96)" in before
    assert "optimizer.weight_decay" not in before
    assert "3 training.epochs 2 5" in before


def test_what_happened_is_told(full_run):
    events = [
        {"time": "2025-01-01T00:00:00+00:00", "step": 2, "kind": "resume", "text": "continuing at step 2"},
        {"step": 3, "kind": HOSTILE, "text": HOSTILE},
        {"unknown": 1},
    ]
    (full_run / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"half')
    (full_run / "bad_records.txt").write_text(f"12\t{HOSTILE}\nno number\n")
    (full_run / "nonfinite" / "step_00000003").mkdir(parents=True)
    page = Page(write_page(full_run).read_text())
    assert "continuing at step 2" in page.text and "1 x resume" in page.text and page.text.count(HOSTILE) >= 3
    assert "records skipped (1)" in page.text
    assert "mim-jax doctor nan" in page.text and "step_00000003" in page.text


def test_of_many_events_the_newest_are_shown(run):
    lines = (json.dumps({"step": step, "kind": "resume", "text": f"continuing at {step}."}) for step in range(250))
    (run / "events.jsonl").write_text("\n".join(lines) + "\n")
    text = Page(write_page(run).read_text()).text
    assert "50 earlier events are in events.jsonl" in text
    assert "continuing at 50." in text and "continuing at 49." not in text


def test_text_of_the_run_stays_text(full_run):
    page = Page(write_page(full_run).read_text())
    assert page.programs == [style.STYLE, style.SLIDER]
    assert HOSTILE in page.text
    assert not [name for _, values in page.tags for name in values if name.startswith("on") or name == "style"]


def test_a_name_cannot_pose_as_another(run):
    """Neither by turning the direction of the text nor by what no screen shows."""
    (run / "events.jsonl").write_text(json.dumps({"step": 1, "kind": "x\u202egnp\x00", "text": "\ud800"}) + "\n")
    text = write_page(run).read_text()
    assert not set(text) & {"\u202e", "\x00"} and "x\N{REPLACEMENT CHARACTER}gnp" in text


def test_the_policy_names_what_the_page_holds(full_run):
    page = Page(write_page(full_run).read_text())
    policy = next(v["content"] for tag, v in page.tags if tag == "meta" and "http-equiv" in v)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert all(style.digest(text) in policy for text in page.programs)


def test_nothing_is_loaded_from_elsewhere(full_run):
    page = Page(write_page(full_run).read_text())
    sources = page.attributes("img", "src")
    assert sum(source.startswith("data:image/svg+xml;base64,") for source in sources) == 3
    assert all(source.startswith("data:image/") for source in sources)
    assert page.attributes("link", "href") == ["data:,"]
    assert not any(tag in ("iframe", "object", "form") for tag, _ in page.tags)
    assert all(page.attributes("img", "alt"))
    assert all(href.startswith("#") for href in page.attributes("a", "href"))


def test_the_slider_shows_the_newest_picture(full_run):
    page = Page(write_page(full_run).read_text())
    figures = [values for tag, values in page.tags if tag == "figure" and "data-words" in values]
    assert [values["data-words"] for values in figures][::9] == ["step 1", "step 10"]
    assert ["hidden" in values for values in figures] == [True] * 9 + [False]
    (bar,) = [values for tag, values in page.tags if tag == "input"]
    assert (bar["type"], bar["min"], bar["max"], bar["value"]) == ("range", "0", "9", "9")
    assert page.attributes("label", "for") == [bar["id"]] == page.attributes("output", "for")
    assert "the slider needs scripts" in page.text


def test_of_many_pictures_some_are_kept_evenly(full_run):
    for step in range(11, 61):
        shutil.copy(full_run / "pictures" / "step_00000001.png", full_run / "pictures" / f"step_{step:08d}.png")
    (full_run / "pictures" / "step_00000060.png").write_bytes(b"no picture")
    page = Page(write_page(full_run).read_text())
    figures = [values["data-words"] for tag, values in page.tags if "data-words" in values]
    assert len(figures) == 23 and figures[0] == "step 1"
    assert "24 of 60 pictures, evenly spread" in page.text
    assert "not readable as PNG, and left out: step_00000060.png" in page.text


def test_many_large_pictures_are_packed_smaller(run, monkeypatch):
    """The page stays some MB, and every picture is there."""
    noise = np.random.default_rng(0).integers(256, size=(300, 1300, 3), dtype=np.uint8)
    for step in (1, 2):
        pictures.save(noise, run / "pictures" / f"step_{step:08d}.png")
    sizes = []
    for room in (6e6, 3e5):
        monkeypatch.setattr(slider, "ROOM", room)
        sources = [s for s in Page(write_page(run).read_text()).attributes("img", "src") if "webp" in s]
        assert len(sources) == 2
        with Image.open(io.BytesIO(base64.b64decode(sources[-1].partition(",")[2]))) as image:
            sizes.append(image.size)
    assert sizes[0] == (1200, 277) and sizes[1][0] < 1200


def test_a_file_that_may_not_be_read_is_named(full_run, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(metrics, "parse", refused)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl cannot be read \(Permission denied\)"):
        write_page(full_run)


def test_plots_of_the_analysis_are_shown(full_run):
    for who, key in (("pretrained", "aaaaaaaa"), ("pretrained", "bbbbbbbb"), ("untrained", "cccccccc")):
        pictures.save(np.zeros((4, 9, 3), np.uint8), full_run / "eval" / "analysis" / f"{who}-{key}" / "cka.png")
    os.utime(full_run / "eval" / "analysis" / "pretrained-aaaaaaaa", (1, 1))
    page = Page(write_page(full_run).read_text())
    alts = [alt for alt in page.attributes("img", "alt") if alt.startswith("cka")]
    assert alts == ["cka of the pretrained encoder", "cka of an untrained encoder, for comparison"]


@pytest.mark.parametrize("name", ["eval.json", "resolved.json"])
@pytest.mark.parametrize("text", ["[{", "7"])
def test_a_damaged_file_is_named(full_run, name, text):
    (full_run / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        write_page(full_run)
    assert not (full_run / "index.html").exists()


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="is no run"):
        write_page(tmp_path)


def test_the_stages_of_a_pipeline_are_named(run):
    with pytest.raises(CheckpointError, match=r"runs below it: .*a run$"):
        write_page(run.parent)


def test_a_full_disk_leaves_the_page_from_before(run, monkeypatch):
    page = write_page(run)
    before = page.read_text()

    def full(self, *args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"index.html cannot be written \(No space left on device\); make room"):
        write_page(run)
    assert page.read_text() == before and [path.name for path in run.glob(".index*")] == []


def test_a_page_that_cannot_be_written(run):
    with pytest.raises(CheckpointError, match="cannot be written .*; name a file that can be written with --out"):
        write_page(run, run / "nowhere" / "page.html")
    assert write_page(run, run / "other.html").is_file()


@pytest.mark.xdist_group("page of a real run")  # so that one worker makes it
def test_the_page_of_a_real_run(real_run):
    page = Page(write_page(real_run).read_text())
    for words in ("15 of 15", "resume", "continuing at step 10", "knn (pooled)", "changed config", "devices", "jax"):
        assert words in page.text, words
    figures = [values["data-words"] for tag, values in page.tags if "data-words" in values]
    assert figures == ["step 5 (epoch 1)", "step 10 (epoch 2)", "step 15 (epoch 3)"]
    titles = [alt.partition(",")[0] for alt in page.attributes("img", "alt") if "by step" in alt]
    assert {"loss", "learning rate", "gradient norm", "throughput (images/s)"} <= set(titles)
    assert "what the encoder is worth (%)" in titles and "waiting for data (% of the time)" in titles
