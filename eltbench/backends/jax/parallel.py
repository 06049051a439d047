"""Devices, and data parallelism over several: one program, each device with its part of every batch and all weights."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def placement(device: str, devices: int) -> tuple[jax.Device | NamedSharding, jax.Device | NamedSharding]:
    """Where the state of a run lives, and where the batch of a training step goes.

    That is one device, or a mesh that holds the state whole on every device and divides the batch on its leading axis.
    The compiler sees the whole batch and divides the work, so a mean is the mean of the whole batch. Raises ValueError
    where there are fewer devices (see `available_devices`).
    """
    found = available_devices(device, devices)
    if devices == 1:
        return found[0], found[0]
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,), devices=found)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))


def available_devices(name: str, count: int = 1) -> list[jax.Device]:
    """The first `count` devices of that name; raises ValueError, with the devices that are here, where there are fewer.

    "cuda" and "tpu" name all devices of their kind, "cuda:1" one of them.
    """
    known = {"cpu": jax.devices("cpu")}
    for platform in ("cuda", "tpu"):
        try:
            found = jax.devices(platform)
        except RuntimeError:  # no such platform here
            continue
        known |= {platform: found, **{f"{platform}:{index}": [device] for index, device in enumerate(found)}}
    if name not in known:
        raise ValueError(f"jax has no device {name!r} here; known: {', '.join(known)}")
    if count > len(known[name]):
        flag = f"; XLA_FLAGS=--xla_force_host_platform_device_count={count} makes as many of the processor"
        more = flag if name == "cpu" else ""
        raise ValueError(f"jax has {len(known[name])} of device {name!r} here, given devices = {count}{more}")
    return known[name][:count]
