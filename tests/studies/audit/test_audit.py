"""The study that recomputes the paper's tables: its verdicts, its files, its command."""

from __future__ import annotations

import json

import matplotlib
import pandas as pd
import pytest
from matplotlib.image import imread

import eltbench
from eltbench import studies
from eltbench.cli import compare as comparison
from eltbench.cli import main as cli
from eltbench.cli import run_study as command
from eltbench.studies.audit import paper
from eltbench.studies.audit.paper.judgement import FITS, NOT_RECOMPUTED, NOTHING_REPORTED, OTHER_STEPS
from eltbench.studies.audit.study import Audit
from eltbench.studies.audit.tables import COLOURS, markdown

FILES = ["claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv"]
TABLES = ("imagenet256_masked", "imagenet256_diffusion", "ucf101_masked", "throughput_tpu_v6e")


@pytest.fixture(scope="module")
def summary() -> pd.DataFrame:
    study = studies.create("audit")
    assert isinstance(study, Audit)
    return study.summarise(study.stamped("paper", study.read()))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "results"
    assert command.main("audit", ["--results", str(folder)]) == 0
    return folder / "audit"


@pytest.mark.slow
def test_the_settings_of_a_user_s_matplotlibrc_change_no_figure(published, tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "red", "savefig.bbox": "tight"}):
        assert command.main("audit", ["--results", str(tmp_path)]) == 0
    for name in ("figure.png", "figure.pdf"):
        assert (tmp_path / "audit" / name).read_bytes() == (published / name).read_bytes()


def verdicts(summary: pd.DataFrame, quantity: str) -> dict[tuple[str, str], str]:
    lines = summary[(summary["kind"] == "recount") & (summary["quantity"] == quantity)]
    return dict(zip(zip(lines["table"], lines["model"], strict=True), lines["verdict"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_every_table_has_a_verdict_on_each_figure_that_it_prints(summary, table):
    rows = paper.table(table)
    ours = summary[(summary["kind"] == "recount") & (summary["table"] == table)]
    assert set(ours["model"]) == set(rows.iloc[:, 0])
    for column in ("params_m", "gflops_k", "fid", "fvd", "inception_score", "effective_depth"):
        for model, printed in zip(rows.iloc[:, 0], rows.get(column, []), strict=column in rows):
            (line,) = ours[(ours["model"] == model) & (ours["quantity"] == column)].itertuples()
            assert line.verdict != NOTHING_REPORTED if pd.notna(printed) else line.verdict == NOTHING_REPORTED
            assert line.verdict == NOTHING_REPORTED or line.reported == printed


def test_parameters_fit_wherever_layers_are_given(summary):
    found = {name: verdict for name, verdict in verdicts(summary, "params_m").items() if name[0] != TABLES[-1]}
    assert found.pop(("ucf101_masked", "MaGNeTS")) == NOT_RECOMPUTED
    assert set(found.values()) == {FITS}
    assert len(found) == 5 + 6 + 4


def test_the_xl_rows_fit_with_seventeen_steps_only(summary):
    found = verdicts(summary, "gflops_k")
    expected = {("imagenet256_masked", model): OTHER_STEPS for model in ("MaskGIT-XL", "ELT-XL 7Nx4L")}
    assert {name: verdict for name, verdict in found.items() if verdict == OTHER_STEPS} == expected
    lines = summary[summary["verdict"] == OTHER_STEPS]
    assert (lines["nearest_steps"] == 17).all()
    assert (lines["sampling_steps"] == 24).all()
    assert lines["recomputed"].to_numpy() == pytest.approx(2 * 28 * 12 * 1152**2 * 257 * 24 / 1e12)
    assert found["ucf101_masked", "MaGNeTS"] == NOT_RECOMPUTED
    assert found["ucf101_masked", "ELT 6Nx4L at L=6"] == NOTHING_REPORTED
    assert sum(verdict == FITS for verdict in found.values()) == 6


def test_depth_fits_everywhere_and_qualities_nowhere(summary):
    assert set(verdicts(summary, "effective_depth").values()) == {FITS}
    for quantity in ("fid", "fvd", "inception_score", "throughput_ratio_vs_same_scale_baseline"):
        assert set(verdicts(summary, quantity).values()) <= {NOT_RECOMPUTED, NOTHING_REPORTED}


def test_a_fit_lies_within_the_rounding_of_the_printed_figure(summary):
    fits = summary[(summary["verdict"] == FITS) & (summary["quantity"] == "params_m")]
    half = fits["reported"].map(lambda figure: 50 if figure > 1000 else 0.5)
    assert ((fits["recomputed"] - fits["reported"]).abs() <= half).all()
    assert (fits["conventions_fitting"] >= 1).all()


@pytest.mark.slow
def test_the_command_writes_what_every_study_writes(published, summary):
    assert sorted(path.name for path in published.iterdir() if path.name != ".lock") == FILES
    assert imread(published / "figure.png").shape[2] == 4
    rows = eltbench.load_rows(published)
    assert set(rows["study"]) == {"audit"}
    study = studies.create("audit")
    assert study.summarise(rows).to_csv(index=False) == summary.to_csv(index=False)
    claims = json.loads((published / "claims.json").read_text())
    assert claims["claims"] == {}
    assert claims["verdicts"] == summary["verdict"].value_counts().to_dict()
    (entry,) = json.loads((published / "provenance.json").read_text())["commands"]
    assert entry["runs"] == {"done": [], "cached": [], "failed": {}}


@pytest.mark.slow
def test_the_other_command_gives_the_same_files_and_prints_every_verdict(published, tmp_path, capsys):
    assert cli.main(["study", "audit", "--results", str(tmp_path)]) == 0
    for name in ("summary.csv", "claims.json", "figure.png", "figure.pdf"):
        assert (tmp_path / "audit" / name).read_bytes() == (published / name).read_bytes()
    *shown, last = capsys.readouterr().out.splitlines()
    assert "17 steps" in " ".join(" ".join(shown).split())
    assert all(any(verdict in line for line in shown) for verdict in (FITS, "does not hold", "holds"))
    assert json.loads(last)["verdicts"]["fits only with another step count"] == 2


@pytest.mark.slow
def test_a_document_shows_the_same_from_the_summary_on_disk(summary, published):
    from_disk = markdown(pd.read_csv(published / "summary.csv"))
    assert from_disk == markdown(summary)
    assert "3.896 with 17 steps instead of 24" in from_disk
    assert "Taken for given in ucf101_masked: width 1024" in from_disk


def test_it_trains_nothing_and_says_so(capsys, tmp_path):
    with pytest.raises(SystemExit) as refusal:
        command.main("audit", ["--seeds", "3"])
    assert refusal.value.code == 2
    (tmp_path / "file").write_text("")
    assert command.main("audit", ["--results", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    study = studies.create("audit")
    assert study.plan(None) == []
    with pytest.raises(ValueError, match="trains no model"):
        study.settings(None, None, None)


def test_two_of_its_results_compare_as_two_of_any_study(published):
    assert comparison.compare(published, published) == []


def test_every_verdict_of_the_summary_has_a_colour_or_is_open(summary):
    assert set(summary["verdict"]) - COLOURS.keys() == {NOT_RECOMPUTED, NOTHING_REPORTED}
