"""What a recipe would take: `mim-jax plan` of its trainings, in a few lines each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from mim_jax import stages
from mim_jax.pretrain import check_all
from mim_jax.reproduce.recipe import Recipe, Step
from mim_jax.training.forecast import forecast
from mim_jax.training.hardware import HERE


def lines(made: Recipe, devices: Sequence[str] = (), chips: int | None = None) -> Iterator[str]:
    """For every training its size and its hours by device; seeds beyond the first cost the same again.

    Raises:
        ConfigError: an unknown device, or chips that the batch or the mesh does not fit.
    """
    for step in made.steps:
        if step.spec and (step.name.startswith("first ") or step.name.startswith("seed 0")):
            for name, config in _runs(step):
                yield from _one(name, config, devices or (HERE, "v5e", "h100", "h200"), chips)
    if len(made.seeds) > 1:
        yield f"{len(made.seeds)} seeds: {len(made.seeds)} times the hours of seed 0"
    yield "Hours are of pretraining, by the formula of `mim-jax plan`, not measured; evaluation comes on top."


def _runs(step: Step) -> list[tuple[str, ConfigDict]]:
    config = step.config()
    if not stages.is_pipeline(config):
        return [(step.name, config)]
    return [(f"{step.name}, {name}", stage) for name, stage in stages.stages(config, step.run).items()]


def _one(name: str, config: ConfigDict, devices: Sequence[str], chips: int | None) -> Iterator[str]:
    found = forecast(config, check_all(config), devices=devices, chips=chips)
    images = found["training_images"]
    yield (
        f"{name}: {found['parameters']:,} parameters, {found['flops_per_image'] / 1e9:,.2f} GFLOPs an image, "
        f"{found['epochs']:g} epochs of {f'{images:,} images' if images else 'a number of images that is not known'}, "
        f"batch {found['batch_size']:,}"
    )
    for row in found["rows"]:
        hours = f"{row['hours']:,.2f} h" if "hours" in row else "hours unknown"
        fits = "" if row["fits"] else ", does not fit its memory"
        yield f"    {row['chips']:>4} x {row['device']:<6} {hours:>14}, {row['images_per_second']:,.0f} images/s{fits}"
