"""Forward FLOPs of the layers of convolutional networks, a multiply-add counted as two."""

from __future__ import annotations


def conv(
    size: tuple[int, int],
    width_in: int,
    width_out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: int | None = None,
) -> float:
    """A convolution of a map of `size`; by default padded by half an odd kernel, and not at all by an even one.

    A tap that falls on padding is not counted, for XLA leaves it out too: on a map of 7 x 7, a third of the taps of a
    7x7 kernel fall there along each axis.
    """
    pad = (kernel // 2 if kernel % 2 else 0) if padding is None else padding
    outputs = [(side + 2 * pad - kernel) // stride + 1 for side in size]
    taps = [
        sum(0 <= o * stride - pad + k < side for o in range(n) for k in range(kernel))
        for side, n in zip(size, outputs, strict=True)
    ]
    multiplied = 2.0 * taps[0] * taps[1] * (width_in // groups) * width_out
    return multiplied + bias * outputs[0] * outputs[1] * width_out


def batch_norm(size: tuple[int, int], width: int) -> float:
    """A batch norm over active positions and the activation after it: what XLA counts, forward and backward, by 3."""
    return 12.0 * size[0] * size[1] * width
