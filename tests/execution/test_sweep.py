"""A sweep makes what is missing, each run in a process of its own, and says what became of every run."""

import subprocess
from dataclasses import replace

import pytest
from faulty_plugin import STEPS, Weighing, job, logged, plug_in

from eltbench.core.atomic import NotWritableError
from eltbench.core.durations import duration
from eltbench.execution.collect import collect, collect_table
from eltbench.execution.progress import Lines
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import Durations, plan, sweep
from eltbench.training.job import Job


@pytest.fixture(autouse=True)
def plugin(monkeypatch, tmp_path):
    plug_in(monkeypatch, tmp_path / "plugin")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture(scope="class")
def swept(tmp_path_factory):
    """One sweep: a run that turns NaN, a sound one measured twice, and one whose measurement fails."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plug_in(monkeypatch, folder / "plugin")
        store, log = RunStore(folder / "runs"), folder / "log"
        jobs = [
            job(0, nan_from=0.5),
            job(1, log=str(log)),
            job(1, {"times": 2}, log=str(log)),
            job(2, {"times": 1, "broken": True}),
        ]
        stderr = []
        monkeypatch.setattr(Lines, "_say", lambda self, text: stderr.append(text))
        outcome = sweep(jobs, store, workers=2, progress=Lines())
    return jobs, store, outcome, stderr, log


@pytest.mark.slow
class TestOneSweep:
    def test_a_run_that_fails_does_not_stop_the_others(self, swept):
        jobs, _, outcome, _, _ = swept
        assert outcome.done == [jobs[1].run_id]
        assert set(outcome.failed) == {jobs[0].run_id, jobs[3].run_id}
        assert outcome.cached == []

    def test_a_loss_that_turns_nan_fails_with_its_step(self, swept):
        jobs, store, outcome, _, _ = swept
        assert "nan at step 2" in outcome.failed[jobs[0].run_id]
        assert "Traceback" in store.failure(jobs[0].run_id)
        assert store.state(jobs[0].run_id) == "failed"

    def test_a_failed_measurement_keeps_the_trained_run(self, swept):
        jobs, store, outcome, _, _ = swept
        assert outcome.failed[jobs[3].run_id] == "ValueError: the scales are broken"
        assert store.state(jobs[3].run_id) == "done"
        assert not store.is_cached(jobs[3])

    def test_two_measurements_of_one_run_train_it_once(self, swept):
        jobs, store, _, _, log = swept
        assert len(logged(log)) == STEPS
        assert store.is_cached(jobs[1])
        assert store.is_cached(jobs[2])

    def test_every_run_is_told_on_a_line_with_its_number(self, swept):
        stderr = swept[3]
        assert stderr[0] == "runs to make: 3, cached: 0"
        ends = [line for line in stderr if line.startswith("[")]
        assert [line.split("]")[0] for line in ends] == ["[1/3", "[2/3", "[3/3"]
        assert sum("FAILED" in line for line in ends) == 2

    def test_the_rows_carry_what_the_model_costs(self, swept):
        jobs, store, _, _, _ = swept
        rows = collect([replace(jobs[2], keys={"role": "main"})], store, "weighing", "tiny", Weighing.columns)
        weights = rows[rows.metric == "weight"]
        assert list(weights.turn) == [0, 1]
        assert list(weights.params) == list(weights.value)  # closed form against the engine's own count
        assert list(weights.weight_bytes) == [4 * value for value in weights.value]
        assert list(weights.flops) == [2 * macs for macs in weights.macs]
        assert set(rows.role) == {"main"}
        assert set(rows.effective_depth) == {1}

    def test_a_process_keeps_to_the_threads_of_its_run(self, swept):
        jobs, store, _, _, _ = swept
        rows = collect([jobs[1]], store, "weighing", "tiny", Weighing.columns)
        assert list(rows[rows.metric == "threads"].value) == [jobs[1].run.threads]

    def test_raw_tables_are_gathered_by_run(self, swept):
        jobs, store, _, _, _ = swept
        turns = collect_table([jobs[0], jobs[2]], store, "turns")
        assert list(turns.turn) == [0, 1]
        assert set(turns.run_id) == {jobs[2].run_id}

    def test_a_repeated_sweep_starts_no_process_for_what_is_there(self, swept, no_process):
        jobs, store, _, _, _ = swept
        outcome = sweep(jobs[1:3], store)
        assert (outcome.done, outcome.cached, outcome.failed) == ([], [jobs[1].run_id], {})


class TestPlan:
    def finished(self, store, job):
        directory = store.directory(job.run_id)
        directory.mkdir(parents=True)
        (directory / "checkpoint.safetensors").write_bytes(b"weights")
        store.finish(job.run, job.run_id, seconds=8.0, resumed=False)

    def test_a_trained_run_lacks_only_its_measurement(self, store):
        trained, missing = Job(job(0).run), job(0)
        self.finished(store, trained)
        assert plan([trained], store).cached == [trained.run_id]
        assert plan([trained, missing], store).missing == {missing.run_id: [missing]}

    def test_jobs_that_differ_in_their_keys_alone_count_once(self, store):
        jobs = [replace(job(0), keys={"role": role}) for role in ("main", "control")]
        assert [len(left) for left in plan(jobs, store).missing.values()] == [1]

    def test_a_failure_is_never_cached(self, store):
        store.fail(job(0).run_id, "Traceback")
        assert plan([job(0)], store).cached == []

    def test_a_store_that_cannot_be_written_is_refused_before_any_process(self, tmp_path, no_process):
        (tmp_path / "file").write_text("")
        with pytest.raises(NotWritableError, match="cannot write to"):
            sweep([job(0)], RunStore(tmp_path / "file" / "runs"))

    def test_time_left_is_that_of_like_runs_shared_by_the_workers(self, store):
        for seed in (0, 1):
            self.finished(store, job(seed))
        durations = Durations(store, [job(seed) for seed in range(6)])
        assert durations.expected([job(seed).run for seed in range(2, 6)], workers=2) == 16.0
        assert durations.expected([job(2).run], workers=2) == 8.0

    def test_a_run_that_lacks_only_its_measurement_is_not_charged_a_training(self, store):
        self.finished(store, job(0))
        durations = Durations(store, [job(0), job(1)])
        durations.add(job(0).run, 2.0, trained=False)
        assert durations.expected([job(0).run], workers=1) == 2.0
        assert durations.expected([job(1).run], workers=1) == 8.0

    def test_time_left_is_unknown_before_any_run_was_timed(self, store):
        assert Durations(store, [job(0)]).expected([job(0).run], workers=1) is None

    @pytest.mark.parametrize(
        "say", [lambda lines, text: lines.warn(text), lambda lines, text: lines.finished("", text)]
    )
    def test_what_is_told_has_nothing_that_controls_a_terminal(self, capsys, say):
        say(Lines(), "damaged file (is of run \x1b]0;owned\x07)")
        assert r"is of run \x1b]0;owned\x07" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("seconds", "words"), [(8.24, "8.2 s"), (185, "3 min 05 s"), (59.97, "1 min 00 s"), (4800, "1 h 20 min")]
    )
    def test_durations_read_as_words(self, seconds, words):
        assert duration(seconds) == words

    def test_a_process_that_cannot_be_started_fails_its_run_alone(self, store, monkeypatch):
        def refuse(*arguments, **options):
            raise OSError("out of memory")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        outcome = sweep([job(0), job(1)], store, workers=2, progress=Lines())
        assert set(outcome.failed.values()) == {"no process could be started: out of memory"}
        assert len(outcome.failed) == 2
