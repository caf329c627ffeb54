"""The page is whole, says what the run holds, loads nothing from elsewhere and trusts no text."""

from __future__ import annotations

import html.parser
import json
import shutil

import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import CheckpointError
from mim_jax.report import pictures
from mim_jax.report.page import write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "<script>alert('x')</script>&\""


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

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
    page = Page(write_page(run).read_text())
    assert "img" not in [tag for tag, _ in page.tags]
    assert "What the encoder is worth" not in page.text and "Run it again" in page.text
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


def test_text_of_the_run_stays_text(full_run):
    text = write_page(full_run).read_text()
    page = Page(text)
    assert "script" not in [tag for tag, _ in page.tags]
    assert HOSTILE in page.text


def test_nothing_is_loaded_from_elsewhere(full_run):
    write_page(full_run)
    moved = full_run.parent / "moved"
    shutil.move(full_run, moved)
    page = Page((moved / "index.html").read_text())
    sources = page.attributes("img", "src")
    assert sum(source.startswith("data:image/svg+xml;base64,") for source in sources) == 3
    linked = [source for source in sources if not source.startswith("data:")]
    assert linked and all((moved / source).is_file() for source in linked)
    assert not any(tag in ("link", "iframe", "object") for tag, _ in page.tags)
    assert all(page.attributes("img", "alt"))


def test_the_newest_picture_comes_first_and_earlier_ones_are_few(full_run):
    write_page(full_run)
    sources = [s for s in Page((full_run / "index.html").read_text()).attributes("img", "src") if s.startswith("pict")]
    assert sources[0] == "pictures/step_00000010.png"
    assert sources[1] == "pictures/step_00000001.png" and len(sources) == 7


@pytest.mark.parametrize("name", ["eval.json", "resolved.json"])
def test_a_damaged_file_is_named(full_run, name):
    (full_run / name).write_text("[{")
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        write_page(full_run)
    assert not (full_run / "index.html").exists()


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="is no run"):
        write_page(tmp_path)
