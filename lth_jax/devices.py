"""Devices: a CPU's cores as devices of their own, so that runs are trained side by side."""

import os
from typing import Any

import jax


def use_host_devices(count: int | None = None) -> None:
    """Let the CPU backend show ``count`` devices (default: one per usable core). Call before JAX starts.

    Does nothing when a backend is already running, or when the user has chosen a number themselves.
    ``splits``, ``find_tickets`` and the commands call it; who computes before them calls it first.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    settings: Any = jax.config
    if settings.jax_num_cpu_devices > 0:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", count or cores)
    except RuntimeError:  # the backend has started: keep the devices it has
        return
