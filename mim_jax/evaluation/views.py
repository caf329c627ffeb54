"""The images of a run, looked at in another way than in pretraining."""

from __future__ import annotations

from typing import Any

from mim_jax import recipes

VIEW = "image"


def one_view(data: Any, **changes: Any) -> Any:
    """The `data` section with one training view, `image`, from the run's own: its size, interpolation and flip.

    The flip is the run's, because what must not be mirrored in pretraining must not be mirrored here. changes: other
    keys of `recipes.view`, such as the kind of crop.
    """
    own = data.views[VIEW if VIEW in data.views else next(iter(data.views))]
    view = recipes.view(tuple(own.size)) | {"interpolation": own.interpolation, "flip": own.flip} | changes
    changed = data.copy_and_resolve_references()
    with changed.unlocked():
        changed.views = {VIEW: view}
    return changed
