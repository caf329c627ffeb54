"""The pages in a real Chromium without a window: what a person sees and can do with the keyboard alone."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mim_jax.report import pictures, serve
from mim_jax.report.compare import write_comparison
from mim_jax.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install mim_jax[dev]")
from tools import browser  # noqa: E402

pytestmark = [
    pytest.mark.skipif(browser.executable() is None, reason=browser.HOW),
    pytest.mark.xdist_group("page of a real run"),
]

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 740}
STEPS = ["step 5 (epoch 1)", "step 10 (epoch 2)", "step 15 (epoch 3)"]
PIXELS = 40  # of the picture that is looked at


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(real_run, tmp_path_factory) -> list[Path]:
    """The real run, and one like it whose pictures are grey, black and white."""
    other = tmp_path_factory.mktemp("browser") / "other"
    shutil.copytree(real_run, other)
    for name, grey in zip(("05", "10", "15"), (128, 0, 255), strict=True):
        pictures.save(np.full((300, 200, 3), grey, np.uint8), other / "pictures" / f"step_000000{name}.png")
    return [real_run, other]


@pytest.fixture
def see(chromium):
    """see(address, viewport, **settings) -> page; afterwards no console may have said anything."""
    said: list[str] = []
    contexts = []

    def look(address, viewport=None, **settings):
        contexts.append(chromium.new_context(viewport=viewport or DESK, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("data:", "file:", "http://127.0.0.1:")) or said.append(r.url))
        page.goto(address, wait_until="load")
        return page

    yield look
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="module")
def addresses(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        "run": write_page(runs[1], folder / "run.html").as_uri(),
        "comparison": write_comparison(runs, folder / "comparison.html").as_uri(),
    }


def pixels(page, selector="[data-slider]") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def background(page) -> float:
    return float(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[5, 5])


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_in_light_and_in_dark(see, addresses, name, scheme):
    page = see(addresses[name], color_scheme=scheme)
    assert (background(page) > 200) == (scheme == "light")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # Curves follow the screen too: their ground is seen through, so their ink has to change.
    curve = np.asarray(Image.open(io.BytesIO(page.locator(".row img").first.screenshot())).convert("L")).astype(int)
    ground = np.median(curve)
    far = curve.min() if scheme == "light" else curve.max()
    assert abs(far - ground) > 120 and (ground > 200) == (scheme == "light")


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_it_fits_a_phone(see, addresses, name):
    page = see(addresses[name], PHONE, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for box in page.locator("h1, h2, figure, .slider, .scroll, pre, summary").all():
        if (place := box.bounding_box()) is not None:
            assert place["x"] >= 0 and place["x"] + place["width"] <= PHONE["width"] + 0.5
    for more in page.locator("summary").all():
        more.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_slider_is_reached_and_moved_by_keyboard(see, addresses):
    page = see(addresses["run"])
    bar, words = page.get_by_label("Step", exact=True), page.locator("output")
    assert bar.is_visible() and words.inner_text() == STEPS[-1]
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if order[-1] == "when":
            break
    assert order[0] == "to the content" and order[-1] == "when" and "Curves" in order
    middle = PIXELS
    for key, shown, grey in (
        ("ArrowLeft", STEPS[1], 0), ("ArrowLeft", STEPS[0], 128), ("ArrowRight", STEPS[1], 0), ("End", STEPS[2], 255),
        ("Home", STEPS[0], 128), ("ArrowUp", STEPS[1], 0),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert words.inner_text() == shown == bar.get_attribute("aria-valuetext")
        assert page.locator("[data-slider] figure:visible").count() == 1
        picture = pixels(page, "[data-slider] figure:visible img")
        assert abs(picture[middle, middle] - grey).max() <= 8


def test_the_slider_stays_in_sight_over_a_high_picture(see, addresses):
    page = see(addresses["run"], {"width": 600, "height": 260})
    figure = page.locator("[data-slider] figure:visible")
    page.evaluate("y => scrollTo(0, y)", figure.bounding_box()["y"] + 60)
    bar, links = page.locator(".slider").bounding_box(), page.locator("nav").bounding_box()
    assert figure.bounding_box()["y"] < 0 <= bar["y"] and bar["y"] + bar["height"] < 260
    assert abs(bar["y"] - links["y"] - links["height"]) <= 6


def test_a_mouse_moves_it_too(see, addresses):
    page = see(addresses["run"])
    box = page.locator("#when").bounding_box()
    page.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)
    assert page.locator("output").inner_text() == STEPS[0]


def test_without_scripts_the_newest_picture_is_shown(see, addresses):
    page = see(addresses["run"], java_script_enabled=False)
    assert not page.locator(".slider").is_visible()
    assert page.locator("[data-slider] figure:visible").count() == 1
    assert "the slider needs scripts" in page.locator("noscript p").inner_text()
    assert abs(pixels(page, "[data-slider] figure:visible img")[PIXELS, PIXELS] - 255).max() <= 8


def test_links_lead_to_the_sections(see, addresses):
    page = see(addresses["run"])
    for link in page.locator("nav a").all():
        link.click()
        title = page.locator(f"{link.get_attribute('href')} h2")
        top = title.bounding_box()["y"]
        assert top < DESK["height"] and title.inner_text() == link.inner_text()
    page.locator("nav a", has_text="Curves").click()
    bar = page.locator("nav").bounding_box()
    assert page.locator("#curves h2").bounding_box()["y"] >= bar["y"] + bar["height"] - 1  # not under the links


def test_a_served_page_follows_its_run(see, runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "live")
    server = serve.make(tmp_path, port=0)
    server.folder.every = 0.2
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        page = see(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_role("link", name="live").click()
        page.locator("#when").focus()
        page.keyboard.press("Home")
        page.locator("summary").first.click()
        with (tmp_path / "live" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 15, "loss": 0.0625}\n')
        page.get_by_text("0.0625").first.wait_for(timeout=20_000)
        assert page.locator("output").inner_text() == STEPS[0]  # where the reader was
        assert page.locator("details").first.get_attribute("open") is not None
        page.get_by_text("live: follows the files").wait_for(timeout=20_000)
        page.goto("about:blank")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_screenshots_of_a_run_and_of_the_gallery(root, runs, tmp_path):
    gallery = tmp_path / "site" / "gallery"
    gallery.mkdir(parents=True)
    (gallery / "index.html").write_text(
        "<title>gallery</title><p style='width: 500px'>wide<script>throw 'mistake'</script>"
    )
    out = tmp_path / "pictures"
    words = ["tools/screenshots.py", "--run", str(runs[1]), "--site", str(tmp_path / "site"), "--out", str(out)]
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    said = done.stdout.splitlines()
    assert "gallery phone: the page is 508 pixels wide" in said and "gallery dark: mistake" in said
    assert not [line for line in said if line.startswith("run ")]
    names = sorted(path.name for path in out.glob("*.png"))
    assert names == [f"{page}_{screen}.png" for page in ("gallery", "run") for screen in ("dark", "light", "phone")]
    assert Image.open(out / "run_phone.png").width == 750
