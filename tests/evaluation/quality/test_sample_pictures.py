"""Pictures of samples by loops: which models they show, what they say of themselves, and that the report shows them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eltbench import studies
from eltbench.evaluation.quality import pictures
from eltbench.evidence import figures, report
from eltbench.execution.store import RunStore
from eltbench.studies import deciding
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.loop import fit

RESULTS = Path(__file__).parents[3] / "results"
PRESET = Preset(
    "made-up",
    seeds=(3, 4),
    worlds=(
        World("diffusion", "digits"),
        World("masked", "relay", architecture={"block": "bert"}, measurement={"samples": 0}),
    ),
    arms=(Arm("no-ilsd"), Arm("elt")),
    architecture={"unique_layers": 1, "max_loops": 2, "width": 8, "heads": 2},
    optimisation={"steps": 2, "batch_size": 4, "warmup_steps": 1},
    measurement={"heldout_draws": 1, "sample_loops": [1, 2, 4], "samples": 20, "sampling": {"steps": 1}},
)


@pytest.fixture(scope="module")
def jobs():
    return studies.create("extrapolation").plan(PRESET)


@pytest.fixture(scope="module")
def store(jobs, tmp_path_factory):
    """The runs of a study, of which elt's second seed on digits alone was finished."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    for job in jobs:
        if job.run.trainer == "elt" and job.run.seed == 4:
            fit(job.run, store.directory(job.run_id))
            store.finish(job.run, job.run_id, seconds=1.0, resumed=False)
    return store


def there(jobs, store):
    return [job for job in jobs if store.state(job.run_id) == "done"]


@pytest.mark.slow
def test_each_world_with_samples_has_a_picture_of_elt_from_the_first_seed_that_is_done(jobs, store, tmp_path):
    (path,) = pictures.write(tmp_path, there(jobs, store), store.root, trained=())
    assert path.name == "samples-diffusion-digits-torch.png"  # and none of relay, which holds no images
    with Image.open(path) as picture:
        said = picture.info[figures.ABOUT]
        assert picture.height > 3 * 40  # a row a loop count
    assert said.startswith("Samples of elt diffusion digits, trained with L_max = 2 (seed 4)")
    assert path.stat().st_size < 100_000
    whole = path.read_bytes()
    assert pictures.write(tmp_path, there(jobs, store), store.root, trained=()) == []
    assert pictures.write(tmp_path, there(jobs, store), store.root, trained=[job.run_id for job in jobs]) == [path]
    assert path.read_bytes() == whole  # one model draws one picture


@pytest.mark.slow
def test_the_report_shows_the_picture_with_its_words(jobs, store, tmp_path):
    folder = tmp_path / "results" / "extrapolation" / "relay"
    shutil.copytree(RESULTS / "extrapolation" / "relay", folder)
    pictures.write(folder, there(jobs, store), store.root, trained=())
    page, _ = report.write(tmp_path / "results", tmp_path / "report.html", studies.claims(), deciding.read_folder)
    text = page.read_text(encoding="utf-8")
    assert text.count("trained with L_max = 2 (seed 4), a row a loop count, all from the same noise") == 2


def test_a_study_leaves_pictures_only_where_runs_are_done(jobs, tmp_path):
    assert pictures.write(tmp_path, [], tmp_path / "none", trained=()) == []
    unsampled = [replace(job, settings={**job.settings, "sample_loops": []}) for job in jobs]
    assert pictures.write(tmp_path, unsampled, tmp_path / "none", trained=()) == []
