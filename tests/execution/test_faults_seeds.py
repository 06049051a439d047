"""Seeds trained in one process, killed or held by another command: each run ends as it would by itself."""

import os
import signal

import pytest
from faulty_plugin import STEPS
from test_faults import ids, plugin, started, steps, wait  # noqa: F401, the fixtures of the same name

pytestmark = pytest.mark.slow


def held(tmp_path, line, *seeds):
    """Runs that stand still once the log, which they share, has so many lines."""
    (tmp_path / "gate").touch()
    options = {"backend": "jax", "log": str(tmp_path / "log-all"), "gate": str(tmp_path / "gate"), "held": line}
    return [(seed, options) for seed in seeds]


def test_a_killed_program_fails_all_its_seeds_and_the_repetition_resumes_each(tmp_path, started, plugin):  # noqa: F811
    runs = held(tmp_path, 5, 1, 2)  # two steps of both, after which both are saved, and the third of one
    command = started(tmp_path, runs, vectorise_seeds=True)
    wait(lambda: len(steps(tmp_path, "all")) == 5)
    (worker,) = set(steps(tmp_path, "all"))
    os.kill(int(worker), signal.SIGKILL)
    (tmp_path / "gate").unlink()
    assert command.outcome() == {
        "done": [],
        "cached": [],
        "failed": dict.fromkeys(ids(*runs), "process killed by SIGKILL"),
    }
    assert [command.store.state(run_id) for run_id in ids(*runs)] == ["failed", "failed"]

    outcome = started(tmp_path, runs, vectorise_seeds=True).outcome()
    assert (sorted(outcome["done"]), outcome["failed"]) == (sorted(ids(*runs)), {})
    assert len(steps(tmp_path, "all")) == 5 + 2 * (STEPS - 2)


def test_seeds_that_are_trained_together_pause_together_and_each_resumes(tmp_path, started, plugin):  # noqa: F811
    runs = held(tmp_path, 5, 1, 2)
    command = started(tmp_path, runs, vectorise_seeds=True)
    wait(lambda: len(steps(tmp_path, "all")) == 5)
    os.kill(command.process.pid, signal.SIGTERM)
    (tmp_path / "gate").unlink()
    assert command.process.wait(timeout=60) != 0
    assert [command.store.state(run_id) for run_id in ids(*runs)] == ["partial", "partial"]
    outcome = started(tmp_path, runs, vectorise_seeds=True).outcome()
    assert (sorted(outcome["done"]), outcome["failed"]) == (sorted(ids(*runs)), {})
    assert len(steps(tmp_path, "all")) == 2 * STEPS  # the third step of both was saved


def test_a_seed_that_another_command_trains_is_left_to_it(tmp_path, started, plugin):  # noqa: F811
    both = held(tmp_path, 3, 1, 2)
    other = started(tmp_path, both[1:])
    wait(lambda: len(steps(tmp_path, "all")) == 3)
    command = started(tmp_path, both, vectorise_seeds=True)
    wait(lambda: len(steps(tmp_path, "all")) == 4)  # the first step of the seed that is free
    assert len(set(steps(tmp_path, "all"))) == 2
    (tmp_path / "gate").unlink()
    own, others = ids(*both)
    assert command.outcome() == {"done": [own], "cached": [others], "failed": {}}
    assert other.outcome() == {"done": [others], "cached": [], "failed": {}}
    assert len(steps(tmp_path, "all")) == 2 * STEPS
    assert [command.store.record(run_id)["seeds_together"] for run_id in (own, others)] == [1, 1]
