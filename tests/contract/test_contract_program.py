"""What XLA is given by the training step of every method, and what it makes of it on several devices."""

from __future__ import annotations

import re

import jax
import pytest
from lowered_step import lower, products

from mim_jax.training import compile_ahead, hlo
from mim_jax.training.traced import size_of

# Products in float32 that are meant, by the names of the operations. Everything else multiplies in bfloat16.
DECLARED = {
    "attmask": r"ProjectionHead|_positions|bgk,bsk->bgs",  # as iBOT
    "beit": r"ConvEncoder|jvp\(\)/dot_general",  # the frozen tokenizer's ids must not depend on the precision
    "beitv2": r"TaskVit|jvp\(\)/dot_general",
    "cae": r"ConvEncoder|jvp\(\)/dot_general",
    "cae_v2": r"/jvp\(Vit\)|jvp\(\)/dot_general",  # the frozen teacher
    "dbot": r"/jvp\(Vit\)",  # the frozen teacher
    "dbot_beit": r"/jvp\(Vit\)",
    "dmae": r"/jvp\(Vit\)",  # the frozen teacher
    "eva02": r"/jvp\(Vit\)",
    "finetune": r"/head/",
    "ibot": r"ProjectionHead|_positions|bgk,bsk->bgs",  # DINO's head and its loss; positions of another grid
    "maskalign": r"/jvp\(Vit\)|jvp\(\)/dot_general",  # the frozen teacher
    "msn": r"_positions|bk,bvk->bv|\.\.\.d,kd->\.\.\.k",  # positions of another grid; assignment and its loss
    # The frozen teacher, the layers before the codes (float32 in the original too), distances and moving codes.
    "vqkd": r"/jvp\(Vit\)|/task\d|jvp\(\)/dot_general|bnv,bnd->vd",
    "tokenizer": r"jvp\(\)/dot_general|bnv,bnd->vd",  # distances to the codebook, and its moving average
}
# Mixing (mixup, cutmix) pairs an image with one of another device.
PERMUTES = {"finetune"}


@pytest.fixture(scope="session")
def step(cls):
    """The tiny bf16 step over the eight devices, lowered."""
    return lower(cls.tiny(precision="bf16"))


def test_products_are_bfloat16_except_those_that_are_declared(cls, step):
    found = products(step.lowered.as_text(debug_info=True))
    assert len(found) > 10
    allowed = DECLARED.get(cls.name, "^$")
    wrong = [p for p in found if set(p.types) != {"bf16"} and not re.search(allowed, p.name)]
    assert not wrong, wrong
    widened = [p for p in found if p.widened and not re.search(allowed, p.name)]
    assert not widened, widened


@pytest.mark.slow
def test_data_parallel_steps_exchange_gradients_alone(cls, step):
    moved = hlo.Program(step.compile().as_text()).traffic()
    permuted = {"collective-permute"} if cls.name in PERMUTES else set()
    assert set(moved.collectives) - permuted == {"all-reduce"}
    gradients = size_of(step.program.params)
    # Statistics and metrics come on top; an activation would be far larger than these tiny models.
    assert moved.sizes["all-reduce"] < 1.5 * gradients + 2**16


@pytest.mark.slow
def test_the_tpu_compiler_keeps_to_it(cls):
    if not compile_ahead.has_tpu_compiler():
        pytest.skip("libtpu is not installed: pip install 'mim_jax[tpu]'")
    topology = compile_ahead.tpu_topology("v5e:2x2")
    step = lower(cls.tiny(precision="bf16"), devices=topology.devices)
    moved = hlo.Program(step.compile().as_text()).traffic()
    permuted = {"collective-permute"} if cls.name in PERMUTES else set()
    assert set(moved.collectives) - permuted == {"all-reduce"}
    assert moved.copied < 0.5 * moved.memory_bytes  # tiny arrays are mostly padding; of a whole model it is far less


def test_the_small_step_exchanges_gradients_alone(cls, step):
    if cls.name != "mae":
        pytest.skip("compiled for every method by `make test-slow`")
    moved = hlo.Program(step.compile().as_text()).traffic()
    assert set(moved.collectives) == {"all-reduce"}
    gradients = size_of(step.program.params)
    assert gradients <= moved.sizes["all-reduce"] < gradients + 2**12
    assert jax.device_count() == 8
