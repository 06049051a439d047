"""What moved between two result sets, and what only seems to."""

import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from synthetic_rows import frame, losses

from eltbench import studies
from eltbench.cli import compare as comparison
from eltbench.cli.compare import compare
from eltbench.evidence import results, verdicts
from eltbench.evidence.intervals import welch_interval
from eltbench.evidence.schema import row_schema
from eltbench.studies import deciding
from eltbench.studies.extrapolation.study import Extrapolation


def published(folder, halves, *, backend="torch", task="diffusion"):
    """A results folder of elt models whose loss at L_max/2 is e^half, and 1 at L_max."""
    rows = [
        row
        for seed, half in enumerate(halves)
        for row in losses({2: math.exp(half), 4: 1.0}, seed=seed, backend=backend, task=task)
    ]
    table = frame(rows)
    folder.mkdir()
    results.write_rows(folder / "rows.parquet", table, row_schema(Extrapolation.columns))
    decided = deciding.decide_all(studies.create("extrapolation"), table, presets=None, smoke=False)
    (folder / "claims.json").write_text(json.dumps(verdicts.content("extrapolation", "made-up", decided)))
    return folder


def elastic(found):
    (entry,) = (entry for entry in found if entry.claim == "elastic")
    return entry


@pytest.mark.slow
def test_the_difference_is_that_of_welch(tmp_path):
    one, two = [0.01, 0.02, 0.03, 0.02], [0.05, 0.08, 0.11]
    entry = elastic(compare(published(tmp_path / "a", one), published(tmp_path / "b", two)))
    spread = np.var(two, ddof=1) / 3 + np.var(one, ddof=1) / 4
    freedom = spread**2 / ((np.var(two, ddof=1) / 3) ** 2 / 2 + (np.var(one, ddof=1) / 4) ** 2 / 3)
    assert entry.difference.estimate == pytest.approx(0.06)
    half_width = entry.difference.high - entry.difference.estimate
    assert half_width == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(spread), rel=1e-9)
    assert entry.moved == (entry.difference.low > 0)


def test_a_result_set_did_not_move_from_itself(tmp_path):
    folder = published(tmp_path / "a", [0.01, 0.02, 0.03])
    entry = elastic(compare(folder, folder))
    assert not entry.moved
    assert not entry.verdict_moved
    assert entry.difference.estimate == 0


@pytest.mark.slow
def test_two_sets_of_one_truth_seldom_move():
    """At the stated rate: 5 % of pairs of samples of one distribution."""
    rng = np.random.default_rng(0)
    intervals = [welch_interval(*rng.normal(size=(2, 5))) for _ in range(2000)]
    moved = np.mean([not each.low <= 0 <= each.high for each in intervals])
    assert 0.03 < moved < 0.06  # Welch is a little careful at five


def test_another_backend_is_compared_where_each_side_has_one(tmp_path):
    first = published(tmp_path / "a", [0.1, 0.11, 0.12])
    second = published(tmp_path / "b", [0.1, 0.12, 0.13], backend="jax")
    entry = elastic(compare(first, second))
    assert (entry.first.cell.backend, entry.second.cell.backend) == ("torch", "jax")
    assert "torch / jax" in comparison.markdown([entry])


def test_a_cell_of_one_side_is_shown_and_not_compared(tmp_path):
    first = published(tmp_path / "a", [0.1, 0.11, 0.12])
    second = published(tmp_path / "b", [0.1, 0.12, 0.13], task="masked")
    found = [entry for entry in compare(first, second) if entry.claim == "elastic"]
    assert {(entry.first is None, entry.second is None) for entry in found} == {(True, False), (False, True)}
    assert all(entry.difference is None and not entry.moved for entry in found)
    assert comparison.in_short(found)["only_first"] == comparison.in_short(found)["only_second"] == 1


@pytest.mark.slow
def test_one_seed_or_a_diverged_one_gives_no_difference(tmp_path):
    whole = published(tmp_path / "a", [0.1, 0.11, 0.12])
    for name, halves in (("one", [0.1]), ("diverged", [0.1, math.inf, 0.1])):
        entry = elastic(compare(whole, published(tmp_path / name, halves)))
        assert entry.difference is None
        assert comparison.lines([entry])[0][-1] in ("verdict", "–")


@pytest.mark.slow
def test_every_line_of_the_table_is_printed(tmp_path, capsys):
    first, second = published(tmp_path / "a", [0.1, 0.11, 0.12]), published(tmp_path / "b", [0.5, 0.51, 0.52])
    found = compare(first, second)
    Console(width=200).print(comparison.table(found))
    said = capsys.readouterr().out
    assert said.count("diffusion digits torch") == len(found) > 0
    assert "estimate" in said


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, capsys):
    folder = published(tmp_path / "a", [0.1, 0.11, 0.12], task="[/red]")
    Console(width=200).print(comparison.table(compare(folder, folder)))
    assert "[/red] digits torch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "claims.json").unlink(), "no folder of results"),
        (lambda folder: (folder / "claims.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "claims.json").write_text('{"study": "extrapolation"}'), "damaged"),
        (lambda folder: (folder / "rows.parquet").unlink(), "rows.parquet"),
        (
            lambda folder: (folder / "claims.json").write_text(
                (folder / "claims.json").read_text().replace('"diffusion"', '"masked"')
            ),
            "say nothing",
        ),
    ],
    ids=["no claims", "no json", "no claims in it", "no rows", "claims of other rows"],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, damage, message):
    whole, broken = published(tmp_path / "a", [0.1, 0.11, 0.12]), published(tmp_path / "b", [0.1, 0.11, 0.12])
    damage(broken)
    for pair in ((whole, broken), (broken, whole)):
        with pytest.raises(ValueError, match=message):
            compare(*pair)


def test_a_study_that_is_not_here_is_named(tmp_path):
    first, second = published(tmp_path / "a", [0.1, 0.2, 0.3]), published(tmp_path / "b", [0.1, 0.2, 0.3])
    text = json.loads((second / "claims.json").read_text())
    (second / "claims.json").write_text(json.dumps({**text, "study": "nothing"}))
    with pytest.raises(ValueError, match="unknown study 'nothing'"):
        compare(first, second)
