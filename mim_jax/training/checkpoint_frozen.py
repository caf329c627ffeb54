"""The parts of a run that never change (tokenizers, teachers), written once beside its checkpoints."""

from __future__ import annotations

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mim_jax.errors import CheckpointError
from mim_jax.training import checkpoint_digests as digests
from mim_jax.training.checkpoint_items import compare, placed
from mim_jax.training.checkpoint_options import reason_of

Tree = Any


def save(path: epath.Path, frozen: Tree) -> None:
    """Writes the tree; nothing if it holds no arrays or is already there."""
    if not jax.tree.leaves(frozen) or path.exists():
        return
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, frozen)
        checkpointer.wait_until_finished()
    if jax.process_index() == 0:
        digests.write_digests(path)
        digests.add_digests(path)


def restore(path: epath.Path, abstract: Tree) -> Tree:
    """The tree, placed as `abstract` says.

    Raises:
        CheckpointError: it is missing, damaged or of other shapes.
    """
    if not jax.tree.leaves(abstract):
        return abstract
    mend = "restore it from a copy of the run, or start a new workdir"
    if not path.exists():
        raise CheckpointError(f"{path} is missing, and the method has frozen parts; {mend}")
    if reason := digests.fault(path):
        raise CheckpointError(f"{path} is damaged ({reason}); {mend}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            compare({"frozen": abstract}, {"frozen": checkpointer.metadata(path).item_metadata.tree}, str(path))
            return checkpointer.restore(path, placed(abstract))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({reason_of(error)}); {mend}") from error
