"""The page at the end of a command; apart from `page`, which does not start JAX."""

from __future__ import annotations

import os

import jax

from mim_jax.errors import MimError
from mim_jax.report.page import write_page
from mim_jax.training.events import say


def refresh_page(run_dir: str | os.PathLike[str]) -> None:
    """Writes the page of a run whose own work is kept already, by the first process alone; a page that cannot be
    written (a full disk) is said, and `mim-jax report` writes it later."""
    if jax.process_index() == 0:
        try:
            write_page(run_dir)
        except MimError as error:  # also of a file in it that a newer or older version wrote
            say(f"no page of the run: {error}")
