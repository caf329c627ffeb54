"""Counting what a program moves, on programs whose numbers can be worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mim_jax.training import hlo

TPU = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused_computation (p0: f32[16,256], p1: s32[]) -> f32[8,128] {
  %p0 = f32[16,256]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  ROOT %cut = f32[8,128]{1,0:T(8,128)S(1)} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={8,128}
}

%body (state: (s32[], f32[8,100])) -> (s32[], f32[8,100]) {
  %state = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %value = f32[8,100]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %double = f32[8,100]{1,0:T(8,128)} add(%value, %value)
  ROOT %again = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) tuple(%count, %double)
}

%condition (state: (s32[], f32[8,100])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(0)
  ROOT %yes = pred[]{:T(512)} constant(true)
}

ENTRY %main (a: f32[16,256], i: s32[], w: (s32[], f32[8,100])) -> f32[8,128] {
  %a = f32[16,256]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %w = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) parameter(2)
  %copy-start.1 = (f32[16,256]{1,0:T(8,128)S(1)}, f32[16,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = f32[16,256]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %on_chip = f32[16,256]{1,0:T(8,128)S(1)} negate(%copy-done.1)
  %cut = f32[8,128]{1,0:T(8,128)S(1)} fusion(%a, %i), kind=kLoop, calls=%fused_computation
  %loop = (s32[]{:T(128)}, f32[8,100]{1,0:T(8,128)}) while(%w), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %sum.1 = f32[16,256]{1,0:T(8,128)S(1)} all-reduce(%on_chip), replica_groups={{0,1,2,3}}, to_apply=%add
  %turned = f32[256,16]{0,1:T(8,128)} copy(%sum.1)
  ROOT %out = f32[8,128]{1,0:T(8,128)} negate(%cut)
}
"""  # noqa: E501


def test_bytes_to_memory_follow_the_memory_spaces():
    moved = hlo.Program(TPU).traffic()
    whole, tile = 16 * 256 * 4, 8 * 128 * 4
    loop = 12 * 3 * tile  # two operands and a result, each padded from 100 to 128 columns
    assert moved.memory_bytes == whole + 0 + tile + loop + 0 + whole + tile
    assert moved.copied == whole
    assert moved.collectives == {"all-reduce": (1, whole)}
    assert moved.loops_unknown == 0


@pytest.mark.parametrize(
    ("dtype", "dims", "layout", "logical", "stored", "space"),
    [
        ("bf16", (4, 197, 64), "2,1,0:T(8,128)(2,1)", 4 * 197 * 64 * 2, 4 * 200 * 128 * 2, 0),
        ("bf16", (4, 197, 64), "1,2,0:T(8,128)(2,1)S(1)", 4 * 197 * 64 * 2, 4 * 256 * 64 * 2, 1),
        ("f32", (3,), "0:T(128)", 12, 512, 0),
        ("pred", (5, 7), "", 35, 35, 0),
        ("s4", (16,), "0", 8, 8, 0),
        ("token", (), "", 0, 0, 0),
    ],
)
def test_buffers_know_their_padding(dtype, dims, layout, logical, stored, space):
    buffer = hlo.Buffer(dtype, dims, layout)
    assert (buffer.logical, buffer.bytes, buffer.space) == (logical, stored, space)


def test_a_compiled_program_is_read():
    x = jnp.ones((256, 512))
    text = jax.jit(lambda a: a @ a.T).lower(x).compile().as_text()
    moved = hlo.Program(text).traffic()
    assert moved.memory_bytes >= 4 * (256 * 512 + 256 * 256)
    assert moved.memory_bytes < 8 * 4 * (256 * 512 + 256 * 256)
    assert moved.collectives == {}


def test_loops_count_as_often_as_they_run():
    def looped(rounds):
        body = lambda c, _: (jnp.sin(c), None)  # noqa: E731
        text = (
            jax.jit(lambda a: jax.lax.scan(body, a, None, length=rounds)[0]).lower(jnp.ones(2**16)).compile().as_text()
        )
        return hlo.Program(text).traffic()

    few, many = looped(10), looped(30)
    if few.loops_unknown:
        pytest.skip("this backend's text does not say how often a loop runs")
    assert many.memory_bytes == pytest.approx(3 * few.memory_bytes, rel=0.2)


def test_sums_over_devices_are_seen():
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((8,), ("data",))
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    out = NamedSharding(mesh, PartitionSpec())
    text = jax.jit(lambda a: a.sum(0), out_shardings=out).lower(x).compile().as_text()
    assert hlo.Program(text).traffic().collectives == {"all-reduce": (1, 32 * 4)}
