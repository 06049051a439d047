"""A trained run is loaded by its name, and refused where its files are not those that were written."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from trained_runs import LABELS, RUNS

from eltbench.cli import main as cli
from eltbench.execution.store import RunStore
from eltbench.training import model as models
from eltbench.training.identity import run_id
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model, load_model, runs_root
from eltbench.training.record import WEIGHTS


def test_a_model_is_found_by_its_id_by_a_beginning_of_it_and_by_its_folder(store):
    run = RUNS["diffusion"]
    for name in (run_id(run), run_id(run)[:8], store / run_id(run), str(store / run_id(run))):
        found = load_model(name, runs=store)
        assert found.run == run
        assert found.run_id == run_id(run)


def test_loading_a_model_leaves_the_process_as_it_was(store):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    try:
        for run in RUNS.values():
            load_model(run_id(run), runs=store)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


def test_training_keeps_to_the_threads_of_its_run_and_gives_them_back(tmp_path, monkeypatch):
    run, seen, threads = RUNS["diffusion"], [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(run, tmp_path, lambda *done: seen.append(torch.get_num_threads()))
        assert (set(seen), torch.get_num_threads()) == ({run.threads}, 2)
    finally:
        torch.set_num_threads(threads)


def test_a_loaded_model_predicts_as_the_trained_engine_does(store, tmp_path):
    run = RUNS["diffusion"]
    trained = Model(run, fit(run, tmp_path), parts(run))
    loaded = load_model(run_id(run), runs=store)
    assert np.array_equal(trained.sample(LABELS, loops=4, steps=2), loaded.sample(LABELS, loops=4, steps=2))
    untrained = Model(run, build_engine(run), parts(run))
    assert not np.array_equal(untrained.sample(LABELS, loops=4, steps=2), loaded.sample(LABELS, loops=4, steps=2))


def test_a_model_says_what_it_is(store):
    run = RUNS["diffusion"]
    model = load_model(run_id(run), runs=store)
    weights = sum(np.asarray(each).size for each in model.engine.held("average").values())
    about = f"Model(elt diffusion digits 1N×3L seed 0: run {run_id(run)}, {weights:,} weights, 3 steps)"
    assert repr(model) == about
    assert model._repr_html_() == f"<p>{about}</p><table><tr><td>folder</td><td>{model.directory}</td></tr></table>"


def test_the_run_keeps_its_identity_wherever_it_is_loaded(store, tmp_path):
    elsewhere = replace(RUNS["diffusion"], device="cuda:0")
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "moved")
    description = tmp_path / "moved" / "checkpoint.json"
    description.write_text(description.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    model = load_model(tmp_path / "moved", device="cpu")
    assert model.run == elsewhere
    assert model.run_id == run_id(elsewhere)
    assert np.isfinite(model.sample(LABELS, loops=1, steps=1)).all()


def test_unknown_and_ambiguous_names_are_refused_with_where_was_looked(store):
    with pytest.raises(ValueError, match=f"no trained run named 'zzz' in {store}"):
        load_model("zzz", runs=store)
    with pytest.raises(ValueError, match=f"{len(RUNS)} runs named '' in"):
        load_model("", runs=store)


@pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_run_is_refused_by_the_name_of_its_file(store, tmp_path, name, damage):
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-50] if damage == "truncated" else b"[]")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_model(tmp_path / "run")


def test_a_run_without_its_description_is_refused(store, tmp_path):
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint.json is damaged"):
        load_model(tmp_path / "run")


def test_runs_lie_where_they_are_said_to_or_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ELTBENCH_RUNS", str(tmp_path / "named"))
    assert runs_root(tmp_path / "given") == tmp_path / "given"
    assert runs_root() == tmp_path / "named"
    monkeypatch.delenv("ELTBENCH_RUNS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runs_root() == tmp_path / "eltbench" / "runs"


# Files from strangers


@pytest.fixture
def copied(store, tmp_path):
    """The folder of a trained run with its record, to be changed."""
    run, directory = RUNS["diffusion"], tmp_path / run_id(RUNS["diffusion"])
    shutil.copytree(store / directory.name, directory)
    RunStore(tmp_path).finish(run, directory.name, seconds=1.0, resumed=False)
    return directory


def altered(directory, name, **tensors):
    path = directory / name
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(path), **tensors}, path, metadata=metadata)


@pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json"])
def test_a_file_that_is_not_the_one_of_the_record_is_refused(copied, name):
    load_model(copied)
    data = bytearray((copied / name).read_bytes())
    place = data.rindex(b"0") if name.endswith("json") else -1
    data[place] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is not the file that was written; eltbench runs verify --repair"):
        load_model(copied)


def test_a_record_of_another_form_is_refused(copied):
    (copied / "done.json").write_text("[" * 9000)
    with pytest.raises(ValueError, match=r"done.json is unreadable: nested deeper than 64 levels"):
        load_model(copied)


def test_weights_that_no_training_writes_are_refused_also_without_a_record(copied):
    (copied / "done.json").unlink()
    name = next(name for name in load_file(copied / WEIGHTS) if name.startswith("average."))
    shape = load_file(copied / WEIGHTS)[name].shape
    altered(copied, WEIGHTS, **{name: np.full(shape, np.inf, np.float32)})
    with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
        load_model(copied)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"unique_layers": 1024},
        {"width": 65_536},
        {"mlp_ratio": 256},
        {"max_loops": 1024, "loop_adapter_rank": 8},
    ],
)
def test_a_network_that_its_file_cannot_hold_is_refused_before_it_is_built(copied, monkeypatch, changes, recorded):
    description = json.loads((copied / "checkpoint.json").read_text())
    description["run"]["architecture"] |= changes
    (copied / "checkpoint.json").write_text(json.dumps(description))
    if recorded:
        RunStore(copied.parent).finish(RUNS["diffusion"], copied.name, seconds=1.0, resumed=False)
    else:
        (copied / "done.json").unlink()
    monkeypatch.setattr(models, "build_engine", lambda *arguments: pytest.fail("it was built"))
    with pytest.raises(ValueError, match=r"does not fit this network: its configuration asks for \d+ bytes of values"):
        load_model(copied)


def test_snapshots_that_a_configuration_only_names_take_no_memory(copied):
    (copied / "done.json").unlink()
    description = json.loads((copied / "checkpoint.json").read_text())
    description["run"]["optimisation"] |= {"steps": 10**15, "snapshot_every": 1}
    (copied / "checkpoint.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="snapshot_every 1 would keep 999999999999999 snapshots, at most 10000"):
        load_model(copied)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 9000,
        '{"run": 3}',
        "[]",
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "seed": NaN}}',
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "architecture": 3}}',
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "task_options": 3}}',
        json.dumps({"run": {**RUNS["diffusion"].to_dict(), "optimisation": {"learning_rate": 10**400}}}),
    ],
)
def test_an_odd_description_is_refused(copied, text):
    (copied / "done.json").unlink()
    (copied / "checkpoint.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint.json is damaged or not eltbench's"):
        load_model(copied)


def test_what_the_system_refuses_to_read_is_a_message_of_the_command(copied, monkeypatch, capsys):
    opened = Path.open

    def refuse(path, *arguments, **named):
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert cli.main(["sample", str(copied), "--out", str(copied / "picture.png")]) == 2
    assert "error: [Errno 13] Permission denied" in capsys.readouterr().err
