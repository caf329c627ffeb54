"""The grid of a method's pictures: a row per image, a column per panel and heat map."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mim_jax.methods.base import Pictures
from mim_jax.replacing import replacing
from mim_jax.report.pixels import channel_note, to_heat, to_rgb

SMALLEST, LARGEST = 128, 320  # sides of a cell in the picture, in pixels
GAP, LINE, FONT = 6, 18, 14
INK, PAPER = (32, 32, 32), (255, 255, 255)

UNDONE = (
    "true patch statistics were used: the standardised prediction is undone with each patch's true mean and variance"
)
NOT_UNDONE = "true patch statistics were not used: predictions are shown as the model makes them"


def statistics_note(pictures: Pictures) -> str:
    """Whether true patch statistics were used: without this a picture promises too much."""
    return UNDONE if pictures.true_patch_statistics else NOT_UNDONE


def draw(
    pictures: Pictures, mean: Sequence[float], std: Sequence[float], caption: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
    """The grid as an RGB array; `mean` and `std` undo the normalisation, per channel.

    Above the columns stand the caption, whether true patch statistics were used, and how channels are shown.
    """
    columns = {
        name: to_rgb(images, (0.0,), (1.0,)) if name in pictures.unit else to_rgb(images, mean, std)
        for name, images in pictures.panels.items()
    }
    for name, maps in pictures.maps.items():
        colours, largest = to_heat(maps)
        columns[f"{name} (0 to {largest:.3g})"] = colours
    channels = next(iter(pictures.panels.values())).shape[-1]
    notes = [caption, statistics_note(pictures), channel_note(channels)]
    return grid(columns, "; ".join(note for note in notes if note))


def grid(columns: Mapping[str, UInt8[np.ndarray, "B H W 3"]], header: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """Titled columns of equally many images; small images are enlarged by whole factors, large ones reduced."""
    first = next(iter(columns.values()))
    rows, height, width = first.shape[:3]
    cell_height, cell_width = _cell(height, width)
    font = ImageFont.load_default(FONT)
    titles = [_wrap(name, cell_width, font) for name in columns]
    total = len(columns) * (cell_width + GAP) + GAP
    heading = _wrap(header, total - 2 * GAP, font) if header else []
    top = GAP + LINE * len(heading)
    first_row = top + LINE * max(len(lines) for lines in titles) + GAP
    canvas = Image.new("RGB", (total, first_row + rows * (cell_height + GAP)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(heading):
        pen.text((GAP, GAP // 2 + LINE * number), line, fill=INK, font=font)
    for column, (images, lines) in enumerate(zip(columns.values(), titles, strict=True)):
        left = GAP + column * (cell_width + GAP)
        for number, line in enumerate(lines):
            pen.text((left + cell_width / 2, top + LINE * number), line, fill=INK, font=font, anchor="ma")
        for row, image in enumerate(images):
            canvas.paste(_fit(image, (cell_width, cell_height)), (left, first_row + row * (cell_height + GAP)))
    return np.asarray(canvas)


def save(image: UInt8[np.ndarray, "H W 3"], path: str | os.PathLike[str]) -> Path:
    """Writes a PNG, whole or not at all, in a folder that is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return path


def _cell(height: int, width: int) -> tuple[int, int]:
    longer = max(height, width)
    if longer > LARGEST:
        return max(1, round(height * LARGEST / longer)), max(1, round(width * LARGEST / longer))
    factor = -(-SMALLEST // longer)
    return height * factor, width * factor


def _fit(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Image.Image:
    """Enlarged without smoothing, so that a pixel stays a pixel; reduced by averaging."""
    picture = Image.fromarray(image)
    return picture.resize(size, Image.Resampling.NEAREST if size[0] >= picture.width else Image.Resampling.BOX)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines that fit `width` pixels, broken at spaces where possible."""
    characters = len(text)
    while characters > 1 and max(font.getlength(line) for line in textwrap.wrap(text, characters)) > width:
        characters -= 1
    return textwrap.wrap(text, characters)
