"""What every test may use: simulated devices, run-time checked annotations, the shared reference data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight simulated devices; and little optimisation and the compiler's older way with fusions, which takes half the time,
# because tiny models spend theirs in the compiler.
FLAGS = ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0")
FLAGS += ("--xla_cpu_use_fusion_emitters=false",)
for flag in FLAGS:
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
os.environ.setdefault("MPLBACKEND", "Agg")
# Many tests start the same small run, some in processes of their own: what one has compiled the others read.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

CHECKED = (
    "masking",
    "targets",
    "losses",
    "measures",
    "nn",
    "models",
    "methods",
    "training",
    "evaluation",
    "data",
    "report",
    "interop",
)
install_import_hook([f"mim_jax.{name}" for name in CHECKED], "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MIM_JAX_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference cases and acceptance data beside the project."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip(f"reference cases and acceptance data are not here (no {SHARED.name}/goldens beside the project)")
    return SHARED


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def torchvision_operators():
    """Lets timm and transformers be imported where torchvision's compiled operators do not fit the installed torch."""
    pytest.importorskip("torch")
    from mim_jax.interop.torch_side import declare_operators

    declare_operators()


MAPS, MANY = Path("/proc/self/maps"), 12_000


@pytest.fixture(autouse=True)
def _few_programs():
    """Forgets compiled programs before there are too many.

    Each lives in memory maps of its own, of which Linux allows a process 65,530; beyond them the compiler crashes.
    """
    yield
    jax = sys.modules.get("jax")
    if jax is not None and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
