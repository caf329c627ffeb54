"""The processes of one run find each other by JAX's distributed runtime, where the surroundings ask for it."""

from __future__ import annotations

import glob
import importlib.util
import os
import sys
import threading

import jax

from mim_jax.errors import ConfigError, MimError

GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# How Slurm (inside srun) and Open MPI say that there are several; a Slurm allocation alone starts nothing.
SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
TIMEOUT = 300  # seconds in which all processes must have come


def start(timeout: int = TIMEOUT) -> bool:
    """Joins this process to the others of the run and returns whether there are others; harmless on a single machine.

    To be called before anything asks JAX for its devices. The processes are told of each other by
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else found by JAX on
    TPU pods, GKE, Slurm and Open MPI. timeout: seconds to wait for the others.

    Raises:
        ConfigError: some of the three variables are missing or wrong.
        MimError: the runtime refused. Where not all processes come, a sentence is printed and the runtime aborts.
    """
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    given = _given()
    if not given and not surrounded():
        return False
    # Collectives between CPUs; without effect on TPUs and GPUs.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where = f" at {given['coordinator_address']}" if given else ""
    sentence = (
        f"the processes of the run did not find each other{where} within {timeout} s; start the same command on every "
        "host, or run `mim-jax doctor` there, which names a missing host"
    )
    # JAX's runtime ends the process by itself when the time is over, so the sentence has to come before.
    warning = threading.Timer(max(timeout - 1, 0), lambda: print(f"mim-jax: {sentence}", file=sys.stderr, flush=True))
    warning.daemon = True
    warning.start()
    try:
        jax.distributed.initialize(**given, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0][:200]
        raise MimError(f"{sentence} ({reason})") from error
    finally:
        warning.cancel()
    return jax.process_count() > 1


def surrounded() -> bool:
    """Whether this process is one of several, or stands on a TPU machine, which may be one of several."""
    several = any(int(os.environ.get(name, "1") or 1) > 1 for name in SIZES)
    return several or (_wants_tpu() and _on_tpu())


def _given() -> dict:
    values = {name: os.environ.get(name, "") for name in GIVEN}
    if not any(values.values()):
        return {}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ConfigError(f"{', '.join(missing)} must be set too: a run of several processes needs {', '.join(GIVEN)}")
    address, count, number = values.values()
    if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
        raise ConfigError(
            f"JAX_PROCESS_ID={number} and JAX_NUM_PROCESSES={count} must be whole numbers, the first smaller than the "
            "second"
        )
    if ":" not in address:
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS={address} must be host:port of process 0, such as 10.0.0.1:8476")
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}


def _wants_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms.split(",")


def _on_tpu() -> bool:
    found = importlib.util.find_spec("libtpu")
    devices = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return found is not None and bool(os.environ.get("TPU_WORKER_HOSTNAMES") or devices)
