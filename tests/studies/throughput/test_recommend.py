"""What `eltbench recommend` answers: on made-up candidates, on hand-made rows, and on the published ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from eltbench.cli import main as cli
from eltbench.evaluation.speed.stopwatch import Burst
from eltbench.evidence import results
from eltbench.studies.throughput import recommend
from eltbench.studies.throughput.recommend import Candidate, Timing, choose

RELAY = Path(__file__).parents[3] / "results" / "extrapolation" / "relay" / "rows.parquet"


def candidate(loops, losses, milliseconds, layers=2):
    return Candidate("elt", "main", layers, 4, 64, loops, dict(enumerate(losses)), milliseconds / 1e3)


FAST = candidate(1, [0.30, 0.31, 0.29], 1.0)
GOOD = candidate(2, [0.20, 0.21, 0.19], 4.0)
BEST = candidate(4, [0.10, 0.11, 0.09], 9.0)


def test_the_best_loss_within_the_latency_wins_and_the_next_best_is_named():
    found = choose([FAST, BEST, GOOD], 0.010)
    assert (found.best, found.runner_up, found.fastest) == (BEST, GOOD, FAST)
    assert found.told_apart
    found = choose([FAST, BEST, GOOD], 0.005)
    assert (found.best, found.runner_up) == (GOOD, FAST)
    assert recommend.answer(found, 0.005) == [
        "deploy elt 2N×4L at L = 2: loss 0.2 [0.1752, 0.2248] over 3 seeds, 4 ms",
        "runner-up: elt 2N×4L at L = 1: loss 0.3 [0.2752, 0.3248] over 3 seeds, 1 ms; "
        "its loss is 50.07 % higher [43.97, 56.43], paired by seed",
    ]


def test_a_latency_is_met_by_what_takes_exactly_as_long():
    assert choose([GOOD, FAST], GOOD.seconds).best == GOOD


def test_where_one_fits_there_is_no_runner_up():
    found = choose([FAST, BEST, GOOD], 0.002)
    assert (found.best, found.runner_up) == (FAST, None)
    assert recommend.answer(found, 0.002)[1] == "nothing else fits 2 ms"


def test_where_nothing_fits_the_fastest_is_named():
    found = choose([GOOD, FAST, BEST], 0.0005)
    assert found.best is None
    assert recommend.answer(found, 0.0005) == ["nothing fits 0.5 ms: the fastest, elt 2N×4L at L = 1, takes 1 ms"]
    assert recommend.in_short(found)["best"] is None


def test_losses_that_cannot_be_told_apart_are_said_to_be_so():
    near = candidate(3, [0.19, 0.20, 0.22], 5.0)
    found = choose([near, GOOD], 0.010)
    assert not found.told_apart
    assert recommend.answer(found, 0.010)[1].endswith("5 ms; paired by seed the two cannot be told apart")


def test_losses_are_compared_seed_by_seed():
    best, slightly_worse = [1.0, 2.0, 4.0], [math.exp(0.020), 2 * math.exp(0.021), 4 * math.exp(0.022)]
    found = choose([candidate(1, slightly_worse, 1.0), candidate(2, best, 1.0)], 0.010)
    assert found.runner_up.loss.low < found.best.loss.high  # the seeds differ by far more than the networks
    assert found.told_apart
    half = 4.302653 * 0.001 / math.sqrt(3)  # t of two degrees of freedom
    assert (found.difference.low, found.difference.high) == pytest.approx((0.021 - half, 0.021 + half), rel=1e-6)
    said = "1 ms; its loss is 2.12 % higher [1.87, 2.38], paired by seed"
    assert recommend.answer(found, 0.010)[1].endswith(said)


def test_only_seeds_that_both_have_are_compared_and_two_at_least():
    best = GOOD._replace(losses={0: 0.1, 1: 0.2, 2: 0.4})
    some = FAST._replace(losses={1: 0.4, 2: 0.8, 7: 0.5})
    found = choose([best, some], 0.010)
    assert found.told_apart
    assert (found.difference.estimate, found.difference.n) == (pytest.approx(math.log(2)), 2)
    for losses in ({2: 0.8, 7: 0.5}, {7: 0.5, 8: 0.5}):
        found = choose([best, some._replace(losses=losses)], 0.010)
        assert found.difference is None
        assert not found.told_apart
        assert recommend.answer(found, 0.010)[1].endswith("cannot be told apart")


def test_a_loss_of_zero_has_no_ratio():
    found = choose([candidate(2, [0.0, 0.1], 1.0), GOOD], 0.010)
    assert not found.told_apart


def test_a_noisy_timing_is_said_to_be_so():
    noisy = GOOD._replace(noisy=True)
    found = choose([noisy, FAST], 0.010)
    best, runner_up = recommend.answer(found, 0.010)
    assert best.endswith("4 ms, a noisy timing")
    assert "noisy" not in runner_up
    assert recommend.answer(choose([noisy], 0.001), 0.001)[0].endswith("takes 4 ms, a noisy timing")
    assert [recommend.in_short(found)[which]["noisy"] for which in ("best", "runner_up")] == [True, False]
    assert list(recommend.table([FAST, noisy], 0.010).columns[-1].cells) == ["noisy", ""]


def test_the_conditions_of_a_timing_are_said():
    asked = {"batch": 1, "precision": "fp32", "mode": "eager", "device": "cpu", "threads": 1, "backend": "torch"}
    said = "batch 1, 1 network call a sample (--calls), fp32, eager, cpu, 1 thread, torch"
    assert recommend.conditions(calls=1, **asked) == said
    assert "8 network calls a sample" in recommend.conditions(calls=8, **asked)


def test_of_equal_losses_the_faster_wins():
    slow = candidate(3, [0.20, 0.21, 0.19], 5.0)
    assert choose([slow, GOOD], 0.010).best == GOOD


def test_one_seed_has_no_interval():
    found = choose([candidate(2, [0.2], 1.0)], 0.010)
    assert "loss 0.2 over one seed, no interval" in recommend.answer(found, 0.010)[0]
    json.dumps(recommend.in_short(found), allow_nan=False)


@pytest.mark.parametrize("latency", [0.0, -1.0, math.nan, math.inf])
def test_a_latency_that_is_none_is_refused(latency):
    with pytest.raises(ValueError, match="latency must be above 0 and finite"):
        choose([FAST], latency)
    with pytest.raises(ValueError, match="no network with a finite held-out loss"):
        choose([], 1.0)


def rows(**changes):
    one = {"metric": "heldout_loss", "task": "masked", "dataset": "relay", "stratum": None, "trainer": "elt"}
    one |= {"role": "main", "unique_layers": 2, "max_loops": 4, "width": 64, "run_id": "r", **changes}
    return [{**one, "loops": loops, "seed": seed, "value": loops + seed / 10} for loops in (1, 2) for seed in range(3)]


def test_quality_is_the_held_out_loss_of_every_exit_over_seeds():
    strata = [{**each, "stratum": "distance 3", "value": 99.0} for each in rows()]
    other = [{**each, "metric": "token_accuracy"} for each in rows()]
    table = recommend.quality(pd.DataFrame(rows() + strata + other))
    assert table["loops"].tolist() == [1, 2]
    assert table["losses"].tolist() == [{0: 1.0, 1: 1.1, 2: 1.2}, {0: 2.0, 1: 2.1, 2: 2.2}]


def test_a_network_that_diverged_is_left_out():
    broken = rows(unique_layers=4)
    broken[0]["value"] = float("nan")
    table = recommend.quality(pd.DataFrame(rows() + broken))
    assert sorted(zip(table["unique_layers"], table["loops"], strict=True)) == [(2, 1), (2, 2), (4, 2)]


def test_a_world_is_named_where_there_are_several():
    two = pd.DataFrame(rows() + rows(task="diffusion", dataset="digits"))
    with pytest.raises(
        ValueError, match=r"the rows hold 2 worlds, .* choose one: --world 'diffusion digits', --world 'masked relay'"
    ):
        recommend.quality(two)
    with pytest.raises(ValueError, match="0 worlds fit 'video'"):
        recommend.quality(two, "video")
    assert len(recommend.quality(two, "digits")) == 2
    with pytest.raises(ValueError, match="hold no heldout_loss"):
        recommend.quality(two[two["metric"] == "none"])


def test_published_networks_are_rebuilt_as_they_were_trained(monkeypatch):
    asked = {}

    def seconds(bodies, backend, device, threads):
        asked.update(bodies)
        return {key: Timing(1e-3 * body.loops) for key, body in bodies.items()}

    monkeypatch.setattr(recommend, "measured_seconds", seconds)
    found = recommend.candidates(RELAY, results.load_rows(RELAY), "relay", batch=3, calls=8)
    assert len(found) == len(asked) > 10
    assert {each.loss.n for each in found} == {5}
    for key, body in asked.items():
        width, loops = key[4:]
        assert (body.network.architecture.width, body.loops, body.batch) == (width, loops, 3)
        assert body.network.architecture.attention_radius == 1
        assert body.network.depth == ("unique" if key[0] == "unique-depth" else body.network.depth)
    assert {each.seconds for each in found} == {8e-3 * body.loops for body in asked.values()}


def test_the_folder_of_the_rows_is_as_good_as_their_file(monkeypatch, capsys):
    monkeypatch.setattr(recommend, "measured_seconds", lambda bodies, *_: dict.fromkeys(bodies, Timing(1e-3)))
    said = []
    for path in (RELAY, RELAY.parent):
        assert cli.main(["recommend", "--latency-ms", "20", "--rows", str(path)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_equal_networks_are_timed_once_and_few_are_held_at_a_time(monkeypatch):
    alive, most, built = set(), 0, []

    class Network:
        def __init__(self, body):
            self.body = body
            alive.add(id(self))
            nonlocal most
            most = max(most, len(alive))

        def __call__(self):
            return self.body

        def __del__(self):
            alive.discard(id(self))

    class Speed:
        def __init__(self, device, threads):
            pass

        def call(self, body):
            built.append(body)
            return Network(body)

        def wait(self, last):
            pass

    monkeypatch.setattr(recommend.speed.registry, "get", lambda name: Speed)
    monkeypatch.setattr(recommend.stopwatch, "race", raced)
    bodies = {(trainer, loops): loops for trainer in ("elt", "no-ilsd") for loops in range(1, 20)}
    found = recommend.measured_seconds(bodies, "torch", "cpu", 1)
    assert sorted(built) == list(range(1, 20))  # any order, each once
    assert 1 < most <= recommend.HELD
    assert found == {key: Timing(loops) for key, loops in bodies.items()}  # each its own time


def raced(calls, wait, rng, **settings):
    return [Burst(name, 0, 0, 10, 10.0 * call()) for name, call in calls.items()]


def test_what_scatters_is_timed_again_and_is_noisy_where_it_does_to_the_last(monkeypatch):
    still, restless = [0.9, 0.96, 1.0, 1.04, 1.1], [0.8, 0.9, 1.0, 1.1, 1.2]  # spreads of .08 and of .2
    twice, thrice = ([times * each for each in bursts] for times, bursts in ((2, still), (3, restless)))
    plan = {"once": [restless, twice], "always": [restless, restless, restless, thrice]}
    races = []

    class Speed:
        def __init__(self, device, threads):
            self.wait = None

        def call(self, body):
            return lambda: body

    def race(calls, wait, rng, **settings):
        names = {name: call() for name, call in calls.items()}
        races.append(sorted(names.values()))
        times = {name: plan[body].pop(0) if body in plan else still for name, body in names.items()}
        return [Burst(name, number, 0, 10, 10 * each) for name in times for number, each in enumerate(times[name])]

    monkeypatch.setattr(recommend.speed.registry, "get", lambda name: Speed)
    monkeypatch.setattr(recommend.stopwatch, "race", race)
    quiet = [f"still {number}" for number in range(10)]
    found = recommend.measured_seconds({name: name for name in [*quiet, *plan]}, "torch", "cpu", 1)
    assert [len(each) for each in races[:2]] == [8, 4]  # all have their turn
    assert races[2:] == [["always", "once"], ["always"], ["always"]]
    assert found == {**dict.fromkeys(quiet, Timing(1.0)), "once": Timing(2.0), "always": Timing(3.0, noisy=True)}


def test_runs_that_no_preset_plans_are_refused(tmp_path):
    table = pd.DataFrame(rows()).assign(study="extrapolation", preset="mine")
    with pytest.raises(ValueError, match=r"neither provenance\.json beside it nor a packaged preset 'mine'"):
        recommend.planned_runs(tmp_path / "rows.parquet", table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "torch has no device 'tpu'"),
        (["--latency-ms", "0"], "latency-ms must be above 0 and finite, given 0"),
        (["--latency-ms", "inf"], "latency-ms must be above 0 and finite, given inf"),
        (["--latency-ms", "nan"], "latency-ms must be above 0 and finite, given nan"),
        (["--rows", "no/rows.parquet"], "no rows at no/rows.parquet"),
        (["--batch", "0"], "batch must be at least 1, given 0"),
        (["--mode", "scan"], "given 'scan'"),
        (["--backend", "numpy"], "unknown backend that can be timed 'numpy'"),
        (["--threads", "9999"], "threads must be at most "),
    ],
)
def test_what_cannot_be_recommended_is_refused(capsys, options, message):
    given = ["recommend", "--latency-ms", "20", "--rows", str(RELAY), *options]
    assert cli.main(given) == 2
    assert message in capsys.readouterr().err


def test_the_command_answers_with_this_device_s_own_times(monkeypatch, capsys):
    real = recommend.measured_seconds

    def few(bodies, *settings):
        return real(dict(list(bodies.items())[:2]), *settings, rounds=1)

    monkeypatch.setattr(recommend, "measured_seconds", few)
    assert cli.main(["recommend", "--latency-ms", "1e6", "--rows", str(RELAY)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "masked relay: batch 1, 1 network call a sample (--calls), fp32, eager, cpu, 1 thread, torch"
    assert any(line.startswith("deploy ") for line in said)
    line = json.loads(said[-1])
    assert 0 < line["best"]["seconds"] < 1e3
    assert line["runner_up"]["loss"] >= line["best"]["loss"]
    monkeypatch.setattr(recommend, "candidates", lambda *_, **__: [BEST._replace(seconds=5.0)])
    assert cli.main(["recommend", "--latency-ms", "20", "--rows", str(RELAY)]) == 1
    assert "nothing fits 20 ms: the fastest, " in capsys.readouterr().out


def test_every_world_of_the_rows_is_answered_where_none_is_named(monkeypatch, capsys):
    asked, read, load = [], [], results.load_rows
    monkeypatch.setattr(results, "load_rows", lambda path: [load(path), read.append(path)][0])
    found = [BEST, BEST._replace(seconds=5.0)]

    def answered(path, rows, world, **_):
        asked.append(world)
        return [found[len(asked) - 1]]

    monkeypatch.setattr(recommend, "candidates", answered)
    digits = RELAY.parents[1] / "digits" / "rows.parquet"
    assert cli.main(["recommend", "--latency-ms", "20", "--rows", str(digits)]) == 1  # the second world has no answer
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["world"] for line in said] == asked == ["diffusion digits", "masked digits-codes"]
    assert [line["best"] is None for line in said] == [False, True]
    assert read == [digits]  # once, however many worlds
