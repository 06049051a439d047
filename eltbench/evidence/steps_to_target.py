"""When a training reached a loss: read off its checkpoints, with no luck of a single one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Arrival(NamedTuple):
    """When a target was reached.

    steps: training steps; those of the last checkpoint where the target was never reached, NaN where a loss is no
    number. nearest: the lowest target that this training has reached, its final loss. reason: why `steps` is not
    interpolated between two checkpoints, else empty.
    """

    steps: float
    reached: bool
    nearest: float
    reason: str


def steps_to_target(steps: ArrayLike, losses: ArrayLike, target: float) -> Arrival:
    """Training steps until the loss is at most `target` and stays there, from the losses (n,) at checkpoints (n,).

    The crossing is the last one, so a dip that is lost again, by noise or by overfitting, does not count. Between the
    checkpoints on its two sides log loss is linear in log step, which is exact for a power law. A target never reached
    counts as the last checkpoint; one that holds from the first checkpoint on counts as the first. Raises ValueError
    unless steps are positive, strictly increasing and as many as the losses, and losses and target are above zero.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    if at.ndim != 1 or at.shape != values.shape or not len(at):
        raise ValueError(f"steps to target: give one loss a checkpoint, given shapes {at.shape} and {values.shape}")
    if not (at > 0).all() or not (np.diff(at) > 0).all():
        raise ValueError(f"steps to target: steps must be positive and strictly increasing, given {at.tolist()}")
    if target <= 0 or (values <= 0).any():
        raise ValueError(f"steps to target: losses must lie above zero, given {values.tolist()}, target {target}")
    nearest, above = float(values[-1]), np.flatnonzero(values > target)
    if not np.isfinite(target):
        return Arrival(np.nan, False, nearest, f"the target is {target}")
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        return Arrival(np.nan, False, nearest, f"the loss at step {at[first]:g} is {values[first]}")
    if not len(above):
        return Arrival(float(at[0]), True, nearest, f"reached at or before the first checkpoint, step {at[0]:g}")
    last = int(above[-1])
    if last == len(at) - 1:
        how = "reached but lost again" if values.min() <= target else "never reached"
        reason = f"{how}, counts as {at[-1]:g} steps (ends at {nearest:.6g}, the target is {target:.6g})"
        return Arrival(float(at[-1]), False, nearest, reason)
    before, after = np.log(values[last : last + 2])
    way = (before - np.log(target)) / (before - after)  # of the way from one checkpoint to the next, in (0, 1]
    return Arrival(float(at[last] * (at[last + 1] / at[last]) ** way), True, nearest, "")
