"""mim_jax: masked image modeling in JAX. Hide part of an image, predict what was hidden, keep the encoder."""

__version__ = "0.1.0"
