"""A sweep with vectorised seeds: one process for the seeds of a configuration, and the truth about each of its runs."""

from dataclasses import replace

import pytest
from faulty_plugin import RUN, STEPS, Weighing, job, logged, plug_in

from eltbench.execution.collect import collect
from eltbench.execution.progress import Lines
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import grouped, plan, sweep
from eltbench.training.job import Job
from eltbench.training.loop import draw, parts


@pytest.fixture(autouse=True)
def plugin(monkeypatch, tmp_path):
    plug_in(monkeypatch, tmp_path / "plugin")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def first_sums(seed):
    """The sum of the tokens of the first item of every batch."""
    made = parts(RUN)
    return [int(draw(replace(RUN, seed=seed), made, step)[0].target[0].sum()) for step in range(STEPS)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three seeds in one process, of which the first meets an item that makes its loss no number; and at which step."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plug_in(monkeypatch, folder / "plugin")
        sums = {seed: first_sums(seed) for seed in range(3)}
        odd = next(each for each in sums[0][1:] if all(each not in sums[seed] for seed in (1, 2)))
        store, log = RunStore(folder / "runs"), folder / "log"
        jobs = [job(seed, backend="jax", log=str(log), nan_sum=odd) for seed in range(3)]
        stderr = []
        monkeypatch.setattr(Lines, "_say", lambda self, text: stderr.append(text))
        outcome = sweep(jobs, store, workers=2, progress=Lines(), vectorise_seeds=True)
    return jobs, store, outcome, stderr, log, sums[0].index(odd)


@pytest.mark.slow
class TestOneSweep:
    def test_one_process_takes_every_step_of_every_seed_once(self, swept):
        log = swept[4]
        assert len(logged(log)) == 3 * STEPS
        assert len(set(logged(log))) == 1

    def test_a_seed_that_diverges_fails_alone_with_its_step(self, swept):
        jobs, store, outcome, _, _, step = swept
        struck, *sound = [job.run_id for job in jobs]
        assert list(outcome.failed) == [struck]
        assert outcome.failed[struck].startswith("DivergedError: ")
        assert f"became nan at step {step};" in outcome.failed[struck]
        assert (sorted(outcome.done), outcome.cached) == (sorted(sound), [])
        assert [store.state(job.run_id) for job in jobs] == ["failed", "done", "done"]
        assert "Traceback" in store.failure(struck)

    def test_each_is_measured_by_itself(self, swept):
        jobs, store, _, _, _, _ = swept
        rows = collect(jobs, store, "weighing", "tiny", Weighing.columns)
        assert sorted(rows["seed"].unique()) == [1, 2]
        assert all(store.is_cached(job) for job in jobs[1:])

    def test_what_is_done_says_how_many_were_trained_together(self, swept):
        jobs, store, _, _, _, _ = swept
        records = [store.record(job.run_id) for job in jobs[1:]]
        assert [record["seeds_together"] for record in records] == [3, 3]
        assert records[0]["seconds"] == records[1]["seconds"] > 0  # equal shares of the time

    def test_every_run_is_told_on_a_line_with_its_number(self, swept):
        stderr = swept[3]
        assert stderr[0] == "runs to make: 3, cached: 0"
        ends = [line for line in stderr if line.startswith("[")]
        assert [line.split("]")[0] for line in ends] == ["[1/3", "[2/3", "[3/3"]
        assert [("seed 0" in line, "FAILED" in line) for line in ends] == [(True, True), (False, False), (False, False)]

    def test_what_is_there_is_not_made_again(self, swept, no_process):
        jobs, store, _, _, _, _ = swept
        assert sweep(jobs[1:], store, vectorise_seeds=True).cached == [job.run_id for job in jobs[1:]]


class TestGrouping:
    def groups(self, jobs, store, vectorise_seeds=True):
        missing = plan(jobs, store).missing
        return [list(group) for group in grouped(missing, store, vectorise_seeds)]

    def test_runs_that_differ_in_their_seed_alone_share_a_process(self, store):
        jobs = [job(seed, backend="jax", nan_from=limit) for seed in (0, 1, 7) for limit in (2.0, 3.0)]
        ids = [job.run_id for job in jobs]
        assert self.groups(jobs, store) == [ids[::2], ids[1::2]]
        assert self.groups(jobs, store, vectorise_seeds=False) == [[run_id] for run_id in ids]

    def test_a_trained_run_is_measured_in_a_process_of_its_own(self, store):
        jobs = [job(seed, backend="jax") for seed in range(4)]
        for trained in jobs[:2]:
            store.directory(trained.run_id).mkdir(parents=True)
            (store.directory(trained.run_id) / "checkpoint.safetensors").write_bytes(b"weights")
            store.finish(trained.run, trained.run_id, seconds=8.0, resumed=False)
        ids = [job.run_id for job in jobs]
        assert self.groups(jobs, store) == [ids[:1], ids[1:2], ids[2:]]

    def test_a_run_trained_alone_says_so(self, store):
        store.directory("alone").mkdir(parents=True)
        (store.directory("alone") / "checkpoint.safetensors").write_bytes(b"weights")
        store.finish(RUN, "alone", seconds=8.0, resumed=False)
        assert store.record("alone")["seeds_together"] == 1

    def test_a_backend_that_cannot_is_refused_before_any_process(self, store, no_process):
        with pytest.raises(ValueError, match=r"backend 'torch' trains every seed in a program of its own; .*: jax"):
            sweep([job(0, backend="jax"), Job(RUN)], store, vectorise_seeds=True)
        assert not store.root.exists()
