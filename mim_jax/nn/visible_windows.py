"""Windows of which only some tokens are there: attention inside each without computing the others (GreenMIM, Huang et
al. NeurIPS 2022, section 3.2, in a form whose sizes are known before compilation)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

Pair = tuple[int, int]


def chunk_sizes(tokens: int, area: int) -> tuple[int, int, int]:
    """(chunks, tokens in each, keys of each query): chunks of a whole window's size; one where that costs no more."""
    if tokens <= 3 * area:
        return 1, tokens, tokens
    return -(-tokens // area), area, 3 * area


class VisibleWindows(struct.PyTreeNode):
    """Tokens sorted by their window and cut into C chunks of T. A window never has more than T tokens, so it lies in
    two neighbouring chunks at the most, and a query meets all of its window in its own chunk, the one before and the
    one after.

    R is 1 where all images of a batch show the same tokens (tables of positions are then made once), else the batch.

    order: Int[R, C * T], the token in every place; places at the end that are too many repeat the first one.
    places: Int[R, N], where every token is.
    window: Int[R, C, T], the number of its window; -1 in places that are too many.
    inside: Int[R, C, T], its number in its window, raster order.
    """

    order: Any
    places: Any
    window: Any
    inside: Any

    def gather(self, x: Float[Array, "B N D"]) -> Float[Array, "B C T D"]:
        """Tokens as chunks."""
        return take(x, self.order).reshape(len(x), *self.window.shape[1:], -1)

    def scatter(self, x: Float[Array, "B C T D"]) -> Float[Array, "B N D"]:
        """Inverse of `gather`."""
        return take(x.reshape(len(x), -1, x.shape[-1]), self.places)

    def around(self, x: Shaped[Array, "#B C *S"], axis: int) -> Shaped[Array, "#B C *_"]:
        """Every chunk with the tokens (along `axis`) of the one before and the one after; the first and the last are
        neighbours too, but share no window."""
        if x.shape[1] == 1:
            return x
        return jnp.concatenate([jnp.roll(x, 1, axis=1), x, jnp.roll(x, -1, axis=1)], axis=axis)

    def positions(self, table: Float[Array, "1 K A A"]) -> Float[Array, "R C K T S"]:
        """What is added to the logits: the entry of the table of a whole window, -inf between different windows."""
        keys, window = self.around(self.inside, 2), self.around(self.window, 2)
        pairs = self.inside[..., None] * table.shape[-1] + keys[:, :, None]
        found = jnp.moveaxis(table[0].reshape(len(table[0]), -1).T[pairs], -1, 2)
        same = self.window[..., None] == window[:, :, None]
        return jnp.where(same[:, :, None], found, -jnp.inf)


def visible_windows(tokens: Int[Array, "R N"], grid: Pair, window: Pair, shift: int) -> VisibleWindows:
    """The windows of the tokens that are there.

    tokens: their numbers in raster order of the whole `grid`. shift: rows and columns by which windows are moved down
    and to the right; those cut by the edge are smaller ones (Swin, section 3.2).
    """
    count = tokens.shape[1]
    chunks, length, _ = chunk_sizes(count, window[0] * window[1])
    row, column = (
        index + -shift % side for index, side in zip((tokens // grid[1], tokens % grid[1]), window, strict=True)
    )
    number = row // window[0] * (grid[1] // window[1] + 1) + column // window[1]
    inside = row % window[0] * window[1] + column % window[1]
    order = jnp.argsort(number, axis=1, stable=True)

    def filled(x, value):
        return jnp.pad(x, ((0, 0), (0, chunks * length - count)), constant_values=value)

    def chunked(x, value):
        return filled(jnp.take_along_axis(x, order, axis=1), value).reshape(-1, chunks, length)

    return VisibleWindows(filled(order, 0), jnp.argsort(order, axis=1), chunked(number, -1), chunked(inside, 0))


def take(x: Float[Array, "B N D"], index: Int[Array, "#B M"]) -> Float[Array, "B M D"]:
    """Tokens by their numbers; one row of `index` serves all images."""
    if len(index) == 1:
        return x[:, index[0]]
    return jnp.take_along_axis(x, index[..., None], axis=1)
