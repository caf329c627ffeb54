"""The contract of a method: what the loop, the evaluations and the tests may ask of any system.

A method is a frozen dataclass. It computes and remembers nothing: everything that moves is in `params` (trained),
`extra` (moved by the method: EMA copies, centres, queues, codebooks) and `frozen` (never changed: teachers,
tokenizers, bases). A subclass writes what is abstract here, and `update` where it keeps extra state.

The fields of pytrees carry no checked annotations, because transformations fill them with shapes, shardings and the
like; their docstrings give shapes instead.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

Batch = dict[str, Any]
Tree = Any


@dataclasses.dataclass(frozen=True)
class ViewShape:
    """What a method expects of one image view of its batch.

    size: (height, width). count: crops per image; more than one gives an axis after the batch's.
    normalize: by the data set's mean and deviation; False gives pixels in [0, 1] (tokenizers).
    given: not made from the image, but a map beside it (`data.maps`). classes: of its labels; 0 for values.
    """

    size: tuple[int, int]
    channels: int = 3
    count: int = 1
    normalize: bool = True
    given: bool = False
    classes: int = 0

    def array(self, batch: int) -> tuple[int, ...]:
        """Shape of the view in a batch: (B, H, W, C), or (B, count, H, W, C)."""
        crops = (self.count,) if self.count > 1 else ()
        return (batch, *crops, *self.size, self.channels)


class Variables(struct.PyTreeNode):
    """Everything a method owns: `params` trained, `extra` moved by the method, `frozen` never changed."""

    params: Tree
    extra: Tree = struct.field(default_factory=dict)
    frozen: Tree = struct.field(default_factory=dict)


class Progress(struct.PyTreeNode):
    """Where the run stands; the only clock that schedules may read."""

    step: Any  # int32
    total_steps: Any  # int32
    epoch: Any  # float32, fractional

    @classmethod
    def at(cls, step, total_steps: int, steps_per_epoch: int) -> Progress:
        step = jnp.asarray(step, jnp.int32)
        return cls(step, jnp.asarray(total_steps, jnp.int32), step.astype(jnp.float32) / steps_per_epoch)

    @classmethod
    def last(cls) -> Progress:
        """The end of a run, where every schedule has arrived: what pictures are drawn with."""
        return cls(jnp.asarray(1, jnp.int32), jnp.asarray(1, jnp.int32), jnp.asarray(jnp.inf, jnp.float32))


class Output(struct.PyTreeNode):
    """What `forward` reports beside the loss.

    terms: named parts of the loss; metrics: further scalars to log.
    weight: what the loss was divided by, so that micro-batches average to the loss of the whole batch.
    carry: what `update` needs, as means over the batch (micro-batches are averaged by `weight`).
    trace: named arrays for tests, reference cases and pictures (`mask`, `latent`, `pred`, `target`,
        `loss_per_patch`, ...); the loop drops it inside the compiled step, so it costs nothing there.
    """

    terms: dict[str, Any] = struct.field(default_factory=dict)
    metrics: dict[str, Any] = struct.field(default_factory=dict)
    weight: Any = 1.0
    carry: Tree = None
    trace: dict[str, Any] = struct.field(default_factory=dict)


class Features(struct.PyTreeNode):
    """What an encoder says about images.

    cls: (B, D) or None; patches: (B, N, D), raster order; pooled: (B, D) mean of the patches;
    layers: the tokens after every block, before the final norm, (B, 1 + N, D) each; empty unless asked for. Asked for
        as 'normed', a vision transformer's pass the final norm each (DINO's probe of the last blocks).
    grid: (h, w), static.
    """

    cls: Any
    patches: Any
    pooled: Any
    layers: tuple[Any, ...] = ()
    grid: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))


class Pictures(struct.PyTreeNode):
    """What `show` draws, in the order in which it is to be seen.

    panels: images (B, H, W, C) in normalised pixel values, as the method receives them.
    maps: non-negative heat maps (B, H, W).
    true_patch_statistics: whether the true mean and variance of each patch were used to undo a normalised target.
    unit: names of panels that hold pixels in [0, 1] instead (what a tokenizer decodes).
    """

    panels: dict[str, Any]
    maps: dict[str, Any] = struct.field(default_factory=dict)
    true_patch_statistics: bool = struct.field(pytree_node=False, default=False)
    unit: tuple[str, ...] = struct.field(pytree_node=False, default=())


@dataclasses.dataclass(frozen=True)
class ParamGroups:
    """Which parameters take weight decay, layer decay, or none of the training, as data for the optimizer.

    Patterns are regular expressions searched in the '/'-joined parameter path.
    no_decay: patterns without weight decay; vectors and scalars (ndim <= 1) never take it.
    layers: (pattern, layer number) in order, first match wins; a pattern with one group captures the block number i
        and stands for layer `number + i`; what matches nothing is in the last layer, `depth + 1`.
    depth: number of blocks.
    frozen: patterns of parameters that are not trained.
    frozen_first: patterns of parameters that stand still for the first `optimizer.freeze_epochs` epochs.
    """

    depth: int
    no_decay: tuple[str, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_first: tuple[str, ...] = ()

    def layer(self, name: str) -> int:
        """The layer that parameter `name` belongs to, from 0 (embedding) to `depth + 1` (what follows the blocks)."""
        for pattern, number in self.layers:
            found = re.search(pattern, name)
            if found:
                return number + (int(found.group(1)) if found.re.groups else 0)
        return self.depth + 1


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of all methods: the arithmetic every system shares.

    model: the config of what is judged, an encoder's or a tokenizer's; each method narrows the type.
    """

    name: ClassVar[str] = ""
    masks: ClassVar[bool] = True  # False: nothing is hidden (a tokenizer), and `trace` has no mask
    scores_visible: ClassVar[bool] = False  # whether visible patches are part of the loss
    batch_statistics: ClassVar[bool] = False  # whether images of a batch share statistics (batch norm)
    without_gradient: ClassVar[tuple[str, ...]] = ()  # patterns of `params` that the loss does not reach, by design
    encoder_copies: ClassVar[tuple[str, ...]] = ()  # paths in `extra` that start as copies of params['encoder']
    encoder_statistics: ClassVar[str] = ""  # entry of `extra` with the encoder's own statistics (batch norm)

    model: Any

    @classmethod
    @abc.abstractmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Method:
        """Builds the method from the `model` and `method` sections of a config, and checks it.

        Raises:
            ConfigError: an unknown key, or an impossible value or combination, with the nearest valid one.
        """

    @classmethod
    @abc.abstractmethod
    def tiny(cls, image_size: tuple[int, int] = (16, 16), channels: int = 3, **model: Any) -> Method:
        """A very small instance for the contract tests; `model` holds further keys of the model section."""

    def views(self) -> dict[str, ViewShape]:
        """The image views of a batch, by name; `image` is the one that evaluation knows."""
        return {"image": ViewShape(self.model.image_size, self.model.channels)}

    def sources(self) -> dict[str, str]:
        """Where entries of `frozen` are read from: {'tokenizer': run folder or weight file}; a run refuses ''.

        What a name stands for on disk is decided by `mim_jax.interop.frozen`.
        """
        return {}

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables; `batch` fixes the shapes (and, where a method says so, data-dependent starts)."""

    @abc.abstractmethod
    def draw(
        self, params: Tree, extra: Tree, frozen: Tree, batch: Batch, key: PRNGKeyArray, progress: Progress
    ) -> Tree:
        """All random choices for one batch, as a pytree whose leaves lead with the batch axis.

        Drawn for the global batch, so that device count and accumulation do not change what is hidden.
        """

    @abc.abstractmethod
    def forward(
        self, params: Tree, extra: Tree, frozen: Tree, batch: Batch, draws: Tree, progress: Progress
    ) -> tuple[Float[Array, ""], Output]:
        """The loss for given draws. Deterministic."""

    def loss(
        self, params: Tree, extra: Tree, frozen: Tree, batch: Batch, key: PRNGKeyArray, progress: Progress
    ) -> tuple[Float[Array, ""], Output]:
        """Draws, then computes the loss."""
        draws = self.draw(params, extra, frozen, batch, key, progress)
        return self.forward(params, extra, frozen, batch, draws, progress)

    def update(self, extra: Tree, params: Tree, output: Output, progress: Progress) -> Tree:
        """Extra state after the optimizer's step; the structure must not change."""
        del params, output, progress
        return extra

    def encoder_params(self, params: Tree, extra: Tree = None) -> Tree:
        """The parameters of the encoder that is judged, and that fine-tuning starts from: its moving average in `extra`
        where the method keeps one (the first of `encoder_copies`)."""
        found = extra if extra and self.encoder_copies else params
        path = self.encoder_copies[0] if found is extra else "encoder"
        return functools.reduce(lambda tree, name: tree[name], path.split("/"), found)

    @property
    def image_model(self) -> Any:
        """The config of the encoder that another method can start from (`image_encoder`)."""
        return self.model

    def image_encoder(self, params: Tree, extra: Tree = None) -> Tree:
        """Its parameters: the whole encoder, or where that knows more than images the part that serves them, under the
        names of a plain encoder."""
        return self.encoder_params(params, extra)

    @abc.abstractmethod
    def encode(
        self, params: Tree, images: Float[Array, "B H W C"], *, extra: Tree = None, layers: bool | str = False
    ) -> Features:
        """Features of whole (unmasked) normalised images; `layers`: see `Features.layers`."""

    def classifier(self, params: Tree) -> tuple[Float[Array, "D K"], Float[Array, " K"]] | None:
        """(kernel, bias) of the linear classifier that was trained with the encoder: logits are
        `encode(...).pooled @ kernel + bias`. None: the encoder came without one."""
        del params
        return None

    @abc.abstractmethod
    def show(self, params: Tree, extra: Tree, frozen: Tree, batch: Batch, key: PRNGKeyArray) -> Pictures:
        """Pictures that let a person judge what the model predicts."""

    @abc.abstractmethod
    def param_groups(self) -> ParamGroups:
        """Decay and layer-decay groups of `params`."""

    @abc.abstractmethod
    def flops(self) -> float:
        """Training FLOPs per image (forward and backward; a multiply-add counts two)."""
