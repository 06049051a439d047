"""Timing of network calls: what is timed, in which order, and that the device is waited for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.speed import timing
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

RUN = Run("elt", "diffusion", "digits", architecture=Architecture(width=8, heads=2))


class Device:
    """An engine whose queue drains when a result is fetched: a call of L loops then takes L seconds of its clock."""

    def __init__(self, sizes):
        self.now, self.queued, self.calls, self.sizes = 0.0, 0.0, [], sizes

    def upload(self, batch):
        self.sizes.append(len(batch.labels))
        return batch

    def predict(self, batch, exits):
        (loops,) = exits
        self.calls.append(loops)
        slow = 10.0 if len(self.calls) == 5 else 0.0  # one slow spell, which a median must not show
        self.queued += loops + slow
        return [ExitOutput(prediction=np.zeros((len(batch.labels), 1)))]

    def numpy(self, array):
        assert len(array) == 1  # waits for all, copies little
        self.now, self.queued = self.now + self.queued, 0.0
        return array


@pytest.fixture
def device(monkeypatch):
    made = Device([])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_a_call_is_timed_until_the_device_is_done_and_its_median_kept(device):
    model = Model(RUN, device, parts(RUN))
    seconds = timing.call_seconds(model, [1, 2, 5], batch_size=400, rounds=5)
    assert seconds == {1: 1.0, 2: 2.0, 5: 5.0}
    assert device.sizes == [400]  # more than the held-out split holds


def test_every_exit_is_warmed_up_once_and_timed_once_a_round_in_changing_order(device):
    timing.call_seconds(Model(RUN, device, parts(RUN)), [1, 2, 3, 4], batch_size=2, rounds=6)
    rounds = [tuple(device.calls[start : start + 4]) for start in range(0, len(device.calls), 4)]
    assert len(rounds) == 7
    assert all(sorted(each) == [1, 2, 3, 4] for each in rounds)
    assert len(set(rounds[1:])) > 3


def test_a_real_model_is_timed_at_every_exit():
    made = parts(RUN)
    seconds = timing.call_seconds(Model(RUN, build_engine(RUN, made), made), (1, 4), batch_size=2, rounds=1)
    assert set(seconds) == {1, 4}
    assert all(value > 0 for value in seconds.values())


@pytest.mark.parametrize(
    ("exits", "batch_size", "rounds", "message"),
    [
        ([1], 0, 1, "at least 1, given 0 and 1"),
        ([1], 1, 0, "at least 1, given 1 and 0"),
        ([2, 1], 1, 1, "strictly increasing"),
        ([0], 1, 1, "a loop count is at least 1"),
    ],
)
def test_what_cannot_be_timed_is_refused(exits, batch_size, rounds, message):
    model = Model(RUN, SimpleNamespace(), parts(RUN))
    with pytest.raises(ValueError, match=message):
        timing.call_seconds(model, exits, batch_size=batch_size, rounds=rounds)
