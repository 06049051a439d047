"""Processes that divide every batch: the loss of the whole batch, equal weights, one that fails ends all."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file

from eltbench.backends.torch import parallel
from eltbench.backends.torch.engine import TorchEngine
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.training.loop import build_engine, fit, parts

STEPS, RATE = 4, 1e-3
DATASETS = {"diffusion": "digits", "masked": "digits-codes"}
TRAINERS = ("elt", "no-ilsd", "unique-depth", "universal-transformer", "deep-supervision", "random-loops")


def small_run(trainer: str, task: str, **architecture) -> Run:
    shape = {"unique_layers": 1, "max_loops": 1 if trainer == "unique-depth" else 3, "width": 16, "heads": 2}
    optimisation = Optimisation(steps=STEPS, batch_size=4, warmup_steps=2, gradient_clip=0.5, ema_decay=0.5)
    return Run(
        trainer, task, DATASETS[task], architecture=Architecture(**shape | architecture), optimisation=optimisation
    )


CASES = {f"{trainer} {task}": small_run(trainer, task) for trainer in TRAINERS for task in DATASETS}
CASES |= {  # with parameters that go unused, always or at times
    "fixed point": small_run("deq", "masked", input_injection=True),
    "halting unused": small_run("universal-transformer", "masked", max_loops=1),
    "injection at times unused": small_run("random-loops", "masked", input_injection=True, max_loops=2),
    "progressive": small_run("progressive", "masked", loop_adapter_rank=2, input_injection=True),
    "recursion": small_run("trm", "masked", block="bert"),
    "adapters at times unused": small_run("random-loops", "masked", loop_adapter_rank=2),
}
CASES["average debiased"] = replace(
    CASES["elt masked"], optimisation=replace(CASES["elt masked"].optimisation, ema_debias=True)
)


def batch_of(run: Run, step: int):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch", step), run.optimisation.batch_size)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption", step), 0.1)


def trained(run: Run) -> tuple[TorchEngine, list[dict[str, float]]]:
    """An engine after some steps, and what these said."""
    engine, trainer = build_engine(run), parts(run).trainer
    assert isinstance(engine, TorchEngine)
    said = []
    for step in range(STEPS):
        exits = trainer.exits(run.architecture, stream(run.dataset, 0, "exits", step))
        values = engine.step(batch_of(run, step), exits, step / (STEPS - 1), RATE)
        said.append({name: float(value) for name, value in values.items()})
    return engine, said


def train_all(folder: Path, report) -> None:
    """What each of two ranks does: every case, to be compared; then the second fails and the first waits for it."""
    rank = torch.distributed.get_rank()
    for number, (name, run) in enumerate(CASES.items(), 1):
        engine, said = trained(replace(run, devices=2))
        engine.save(folder / name / str(rank), STEPS)
        (folder / name / f"{rank}.json").write_text(json.dumps(said))
        if report:
            report(number, len(CASES))
    (folder / f"process {rank}").write_text(str(os.getpid()))
    torch.distributed.barrier()  # nobody is ended before it has left what is compared
    if rank == 1:
        raise ArithmeticError("the second fails")
    time.sleep(600)


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """What two ranks left, the progress that was heard, and the error that ended them."""
    folder, heard = tmp_path_factory.mktemp("divided"), []

    def hear(*done):
        heard.append(done)

    with pytest.raises(RuntimeError) as error:
        parallel.launch(replace(small_run("elt", "diffusion"), devices=2), partial(train_all, folder), hear)
    return folder, heard, error.value


@pytest.mark.slow
class TestTwoRanks:
    @pytest.mark.parametrize("case", CASES)
    def test_every_step_says_what_one_process_says_of_the_whole_batch(self, case, divided):
        """Loss, terms, the gradient's norm; also of masked tokens, of which the parts hold unequally many."""
        folder, *_ = divided
        engine, expected = trained(CASES[case])
        for rank in (0, 1):
            said = json.loads((folder / case / f"{rank}.json").read_text())
            for ours, theirs in zip(expected, said, strict=True):
                assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6 * ours["loss"])
        other = build_engine(CASES[case])
        assert other.load(folder / case / "0") == STEPS
        batch = engine.upload(batch_of(CASES[case], 0))
        deepest = CASES[case].architecture.max_loops
        ours, theirs = (each.predict(batch, (deepest,))[0].prediction for each in (engine, other))
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()

    @pytest.mark.parametrize("case", CASES)
    def test_the_ranks_hold_equal_weights_averages_and_moments(self, case, divided):
        folder, *_ = divided
        first, second = (load_file(folder / case / str(rank) / "checkpoint.safetensors") for rank in (0, 1))
        assert all(torch.equal(value, second[name]) for name, value in first.items())

    def test_the_progress_of_the_first_is_heard(self, divided):
        _, heard, _ = divided
        assert heard == [(number, len(CASES)) for number in range(1, len(CASES) + 1)]

    def test_a_rank_that_fails_is_named_and_ends_the_others(self, divided):
        folder, _, error = divided
        assert str(error) == "rank 1: ArithmeticError: the second fails"
        assert 'raise ArithmeticError("the second fails")' in error.__notes__[0]
        for rank in (0, 1):
            with pytest.raises(ProcessLookupError):
                os.kill(int((folder / f"process {rank}").read_text()), 0)


def test_a_run_for_several_devices_ends_as_an_engine_on_one(tmp_path, monkeypatch):
    """Whoever calls `fit` is no rank: what the ranks have saved is read back."""
    run = small_run("elt", "diffusion")

    def launched(asked, train, report):
        assert (asked.devices, train.args) == (2, (asked, tmp_path))
        fit(run, tmp_path, report)
        return True

    monkeypatch.setattr(TorchEngine, "launch", launched)
    heard = []
    engine = fit(replace(run, devices=2), tmp_path, lambda *done: heard.append(done))
    assert heard[-1] == (STEPS, STEPS)
    assert all(map(torch.equal, engine.network.parameters(), fit(run, tmp_path).network.parameters()))
    engine.step(batch_of(run, STEPS), (1, 3), 1.0, RATE)


@pytest.mark.parametrize("world", [None, 3])
def test_an_engine_for_several_devices_is_refused_outside_their_processes(world, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: world is not None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    with pytest.raises(ValueError, match=r"torch trains on 2 devices in as many processes.*eltbench.training.loop.fit"):
        build_engine(replace(small_run("elt", "diffusion"), devices=2))


def test_a_part_in_which_nothing_counts_is_refused(monkeypatch):
    """Its loss has no value, while that of the whole batch has one."""
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    run = replace(small_run("elt", "masked"), devices=2)
    batch = batch_of(run, 0)
    batch.weight[2:] = 0
    with pytest.raises(ValueError, match="nothing counts in rank 1's part of a batch; give fewer devices"):
        parallel.Ranks(run).share(batch, parts(run).task)


@pytest.mark.parametrize(("device", "count"), [("cpu", 10**6), ("cuda", 10**6)])
def test_more_devices_than_there_are_are_refused_with_their_number(device, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    here = {"cpu": f"torch has {os.cpu_count()} processors", "cuda": "torch has 3 of device 'cuda'"}[device]
    with pytest.raises(ValueError, match=rf"{here}.* here, given devices = 1000000"):
        TorchEngine.check_device(device, count)
    with pytest.raises(ValueError, match="torch has 1 of device 'cuda:1' here, given devices = 2"):
        TorchEngine.check_device("cuda:1", 2)
    TorchEngine.check_device("cuda", 3)
