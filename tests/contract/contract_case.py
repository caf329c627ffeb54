"""A small method at hand: images, variables, draws."""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from mim_jax.methods.base import Progress, ViewShape
from mim_jax.training.groups import flat


def images(size=(16, 16), channels=3, batch=8, seed=0):
    """Normalised noise with structure: smooth enough that patches differ in mean and variance."""
    key = jax.random.key(seed)
    coarse = jax.random.normal(key, (batch, size[0] // 4, size[1] // 4, channels))
    fine = jax.random.normal(jax.random.fold_in(key, 1), (batch, *size, channels))
    return jax.image.resize(coarse, fine.shape, "nearest") + 0.3 * fine


def view(shape: ViewShape, batch=8, seed=0):
    """A view of a batch, as the step prepares it: normalised, or in [0, 1]."""
    made = images(shape.size, shape.channels, batch * shape.count, seed)
    made = made if shape.normalize else jax.nn.sigmoid(made)
    return made.reshape(shape.array(batch))


def make_batch(method, batch=8):
    """All the views that a method asks for, and labels, which few look at."""
    views = {name: view(shape, batch, n) for n, (name, shape) in enumerate(sorted(method.views().items()))}
    return {**views, "index": jnp.arange(batch), "label": jnp.arange(batch) % 5}


@lru_cache
def compiled(method, name, **static):
    """A function of a method, compiled once for all tests: bound methods are new objects at every look."""
    return jax.jit(partial(getattr(method, name), **static))


@lru_cache
def compiled_gradient(method):
    return jax.jit(jax.value_and_grad(lambda *args: method.forward(*args)[0]))


class Case:
    """A method with variables, a batch and draws; what is called often is compiled once."""

    def __init__(self, method, batch=8):
        self.method = method
        self.batch = make_batch(method, batch)
        self.variables = compiled(method, "init")(jax.random.key(1), self.batch)
        self.progress = Progress.at(3, 100, 10)
        self.draws = self.draw(jax.random.key(2))

    def draw(self, key):
        v = self.variables
        return compiled(self.method, "draw")(v.params, v.extra, v.frozen, self.batch, key, self.progress)

    def _args(self, params, batch):
        v = self.variables
        params = v.params if params is None else params
        return params, v.extra, v.frozen, self.batch if batch is None else batch, self.draws, self.progress

    def eager_forward(self, params=None, batch=None, method=None):
        return (method or self.method).forward(*self._args(params, batch))

    def forward(self, params=None, batch=None, method=None):
        """Loss and output, compiled."""
        return compiled(method or self.method, "forward")(*self._args(params, batch))

    def loss(self, params=None, batch=None, method=None):
        return self.forward(params, batch, method)[0]

    def loss_and_gradients(self, method=None):
        """The loss and {path: gradient of the loss}, in one program and as numpy: tests spend their time compiling."""
        loss, gradients = jax.device_get(compiled_gradient(method or self.method)(*self._args(None, None)))
        return loss, flat(gradients)

    def encode(self, image, layers=False):
        v = self.variables
        return compiled(self.method, "encode", layers=layers)(v.params, image, extra=v.extra)
