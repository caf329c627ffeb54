"""What a step frees is kept for the next one, and given back after an evaluation."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("psutil")

# Of its own process: the setting is for good. Blocks lie between others that stay, so the heap's top does not move.
CODE = """
import psutil
from mim_jax.training.host_memory import give_back, keep_freed_memory
def held():
    return psutil.Process().memory_full_info().uss / 1e6
give_back()  # nothing is kept yet
assert keep_freed_memory()
blocks = [bytearray(b"x" * 1_000_000) for _ in range(200)]
small = [bytearray(b"x" * 1000) for _ in range(10)]
full = held()
del blocks
kept = held()
give_back()
print(full - kept, kept - held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone has these settings")
def test_freed_memory_is_kept_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    if "keep_freed_memory()" in done.stderr:
        pytest.skip("the C library here is not glibc")
    at_once, given_back = map(float, done.stdout.split())
    assert at_once < 20 and given_back > 180
