"""`mim-jax show`: what a run predicts, on images of one's choice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mim_jax import config as configs
from mim_jax.data.decode import decode
from mim_jax.data.settings import Settings
from mim_jax.errors import ConfigError, DataError
from mim_jax.report.online import fixed_images, predict
from mim_jax.report.pictures import draw, save, statistics_note
from mim_jax.training.checkpoints import Which
from mim_jax.training.runs import load_run


def show_run(
    run_dir: str | os.PathLike[str],
    *,
    images: Sequence[str | os.PathLike[str]] = (),
    source: str = "",
    count: int = 8,
    seed: int = 0,
    out: str | os.PathLike[str] = "",
    step: Which = None,
) -> Path:
    """Writes the grid (input, masked, prediction, pasted, error) as PNG, says where and what it rests on.

    images: image files; else `count` images of `source`, by default of the run's own held-out images. seed: of what
    is hidden. out: the file to write, by default pictures/show_<step>.png in the run. step: which checkpoint.

    Raises:
        DataError, CheckpointError, ConfigError: one sentence that names what does not serve.
    """
    if images and source:
        raise ConfigError("give image files or a data source to show, not both")
    if count < 1:
        raise ConfigError(f"count = {count}: there must be at least one image to show")
    if out and Path(out).suffix.lower() != ".png":
        raise ConfigError(f"{out} is no .png file, and PNG is what is written; give --out NAME.png")
    run = load_run(run_dir, step)
    for name in run.method.sources():
        if name not in (run.variables.frozen or {}):
            raise ConfigError(
                f"{run_dir} was imported without its {name}, which the pictures need; import it again with "
                f"--config.method.{name}.source=..."
            )
    data = run.config.data
    if source:
        data = configs.override(run.config, [f"data.eval_source={source}"]).data
    stored = {"image": from_files(images, data)} if images else fixed_images(data, count)
    pictures = predict(run.method, run.variables, data, stored, seed)
    path = save(
        draw(pictures, data.mean, data.std, f"{run.config.method.get('name', '')} at step {run.step}"),
        out or Path(run_dir) / "pictures" / f"show_{run.step:08d}.png",
    )
    print(statistics_note(pictures))
    print(f"{len(stored['image'])} images, checkpoint at step {run.step}: {path}")
    return path


def from_files(paths: Sequence[str | os.PathLike[str]], data: Any) -> Shaped[np.ndarray, "B H W C"]:
    """Image files through the evaluation transform of a `data` section.

    Raises:
        DataError: a file that is missing or cannot be decoded, by name.
    """
    view = Settings.from_config(data).view("eval")
    found = []
    for path in paths:
        try:
            pixels = decode(
                Path(path).read_bytes(),
                channels=data.channels,
                dtype=np.dtype(np.uint8),
                max_pixels=data.max_pixels,
            )
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; give image files that are there") from error
        except DataError as error:
            raise DataError(f"{path} {error}") from error
        found.append(view(pixels, np.random.default_rng(0)))
    return np.stack(found)
