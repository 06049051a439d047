"""A study in both backends: a column tells them apart, claims are decided in each, and nothing of either is lost."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import eltbench
from eltbench.cli import run_study as command
from eltbench.execution.store import RunStore

pytestmark = pytest.mark.slow

PRESET = """
[tiny]
smoke = true
seeds = 1
architecture = { unique_layers = 1, max_loops = 2, width = 16, heads = 2 }
optimisation = { steps = 6, batch_size = 8, warmup_steps = 1, log_every = 2, checkpoint_every = 3 }
measurement = { heldout_draws = 1, sample_loops = [2, 4], samples = 20, sampling = { steps = 2 }, diagnose_loops = [2] }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [{ trainer = "elt" }]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One trainer in both backends, then two more of its seeds in JAX, trained together."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.toml").write_text(PRESET)
    common = ["--preset", f"{folder / 'mine.toml'}:tiny", "--runs", str(folder / "runs")]
    common += ["--results", str(folder / "results")]
    results = folder / "results" / "extrapolation" / "tiny"
    assert command.main("extrapolation", [*common, "--backend", "torch,jax"]) == 0
    first = eltbench.load_rows(results)
    claims = json.loads((results / "claims.json").read_text())["claims"]
    further = ["--backend", "jax", "--seeds", "0:3", "--vectorise-seeds"]
    assert command.main("extrapolation", [*common, *further]) == 0
    commands = json.loads((results / "provenance.json").read_text())["commands"]
    return SimpleNamespace(
        store=RunStore(folder / "runs"), first=first, claims=claims, rows=eltbench.load_rows(results), commands=commands
    )


def test_both_backends_give_the_same_rows_but_for_their_values(made):
    keys = ["metric", "loops", "stratum", "sampler", "sampling_steps", "n_samples", "params", "macs"]
    ours, theirs = (
        made.first[made.first["backend"] == backend].sort_values(["metric", "loops", "stratum"])
        for backend in ("torch", "jax")
    )
    assert len(ours) > 50
    assert ours[keys].reset_index(drop=True).equals(theirs[keys].reset_index(drop=True))
    assert set(ours["run_id"]) != set(theirs["run_id"])


def test_every_claim_is_decided_for_each_backend(made):
    decided = {name: claim for name, claim in made.claims.items() if claim["cells"]}
    assert {"elastic", "over-iteration", "modest-extrapolation"} <= set(decided)
    for claim in decided.values():
        assert sorted(cell["backend"] for cell in claim["cells"]) == ["jax", "torch"]
        assert {cell["verdict"] for cell in claim["cells"]} == {"inconclusive"}  # a smoke preset judges nothing


def test_seeds_trained_together_join_the_rows_and_remove_none(made):
    assert set(zip(made.rows["backend"], made.rows["seed"], strict=True)) == {
        ("torch", 0),
        ("jax", 0),
        ("jax", 1),
        ("jax", 2),
    }
    counts = made.rows.groupby("run_id").size()
    assert counts.nunique() == 1
    records = {seed: made.store.record(run_id) for run_id, seed in made.rows.groupby("run_id")["seed"].first().items()}
    assert [records[seed]["seeds_together"] for seed in (1, 2)] == [2, 2]


def test_the_provenance_names_the_presets_of_both(made):
    assert [[preset["backend"] for preset in entry["presets"]] for entry in made.commands] == [
        ["torch", "jax"],
        ["jax"],
    ]
    assert [len(entry["runs"]["done"]) for entry in made.commands] == [2, 2]
