"""The stopwatch: it waits for the device, alternates at random, and finds no difference where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eltbench.evaluation.speed import stopwatch
from eltbench.evidence.intervals import paired_interval


class Device:
    """An asynchronous device: a call returns at once and is done when the queue is drained."""

    def __init__(self):
        self.now, self.queued, self.calls = 0.0, 0.0, []

    def call(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += 1e-6  # of the host
            self.queued += seconds
            return name

        return run

    def wait(self, last):
        assert last == self.calls[-1]
        self.now, self.queued = self.now + self.queued, 0.0

    def clock(self):
        return self.now


def race(device, contenders, rng=None, **settings):
    settings = {"rounds": 4, **settings}
    rng = rng or np.random.default_rng(0)
    return stopwatch.race(contenders, device.wait, rng, clock=device.clock, **settings)


def test_a_burst_lasts_until_the_device_is_done():
    device = Device()
    bursts = race(device, {"quick": device.call("quick", 1.0), "slow": device.call("slow", 3.0)})
    assert stopwatch.seconds_per_call(bursts) == pytest.approx({"quick": 1.0, "slow": 3.0}, rel=1e-5)


def test_what_is_queued_by_one_contender_is_never_charged_to_the_next():
    device = Device()
    bursts = race(device, {"heavy": device.call("heavy", 1000.0), "light": device.call("light", 1.0)}, rounds=9)
    assert all(each.seconds_per_call == pytest.approx(1.0, rel=1e-5) for each in bursts if each.contender == "light")


def test_every_round_has_one_burst_of_each_in_an_order_of_its_own():
    device = Device()
    names = ["a", "b", "c", "d"]
    bursts = race(device, {name: device.call(name, 1.0) for name in names}, rounds=8)
    orders = [tuple(each.contender for each in bursts if each.round == number) for number in range(8)]
    assert all(sorted(order) == names for order in orders)
    assert len(set(orders)) > 4
    assert all([each.place for each in bursts if each.round == number] == [0, 1, 2, 3] for number in range(8))


def test_the_calls_of_a_burst_follow_one_another_and_its_first_are_not_timed():
    device = Device()
    bursts = race(device, {"a": device.call("a", 1.0), "b": device.call("b", 1.0)}, rounds=3, calls=12)
    assert {each.calls for each in bursts} == {12}
    expected = [name for name in "ab" for _ in range(2)]  # the first calls may compile
    for each in bursts:
        expected += [each.contender] * (stopwatch.SETTLING_CALLS + 12)
    assert device.calls == expected


def test_short_calls_fill_the_time_that_a_burst_should_last():
    device = Device()
    contenders = {"short": device.call("short", 0.01), "long": device.call("long", 1.0)}
    bursts = race(device, contenders, burst_seconds=0.5)
    assert {each.contender: each.calls for each in bursts} == {"short": 50, "long": 10}


def simulated_ratio(rng):
    """ln(time/time) of two copies of one contender, on a machine that drifts, stutters and is seldom still."""
    device = Device()
    level, seen = rng.lognormal(0, 0.2), 0

    def call():
        nonlocal seen
        seen += 1
        device.calls.append("copy")
        drift = 1 + 0.1 * math.sin(seen / 40)
        device.queued += level * drift * rng.lognormal(0, 0.1) * (10 if rng.random() < 0.01 else 1)
        return "copy"

    seconds = stopwatch.seconds_per_call(race(device, {"one": call, "other": call}, rng))
    return math.log(seconds["one"] / seconds["other"])


def test_a_configuration_against_itself_has_the_ratio_one_within_its_interval():
    rng, trials = np.random.default_rng(3), 120
    intervals = [paired_interval([simulated_ratio(rng) for _ in range(5)]) for _ in range(trials)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 1.0  # 95 % of 120 trials, three standard deviations below
    assert abs(np.mean([interval.estimate for interval in intervals])) < 0.02


def test_a_configuration_that_is_a_tenth_slower_is_found_to_be():
    device = Device()
    bursts = race(device, {"one": device.call("one", 1.0), "slower": device.call("slower", 1.1)})
    seconds = stopwatch.seconds_per_call(bursts)
    assert seconds["slower"] / seconds["one"] == pytest.approx(1.1, rel=1e-5)


def test_bursts_scatter_by_the_distance_of_their_quartiles_over_their_median():
    still = [stopwatch.Burst("still", number, 0, 10, 10.0) for number in range(5)]
    restless = [
        stopwatch.Burst("restless", number, 1, 10, seconds) for number, seconds in enumerate([8, 9, 10, 11, 12])
    ]
    expected = {"still": 0.0, "restless": pytest.approx(0.2)}  # quartiles .9 and 1.1, median 1
    assert stopwatch.spreads(still + restless) == expected
    assert stopwatch.spread(still) == stopwatch.spread([]) == 0.0
    assert stopwatch.spread(still + restless) == pytest.approx(0.2)  # of the worst


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"calls": 9}])
def test_a_race_without_rounds_or_with_short_bursts_is_refused(settings):
    device = Device()
    with pytest.raises(ValueError, match="at least 1 round and 10 calls a burst"):
        race(device, {"a": device.call("a", 1.0)}, **settings)
