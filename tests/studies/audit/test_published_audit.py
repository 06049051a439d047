"""The published audit follows from the paper's tables, and has a verdict on every row of them."""

import json
from pathlib import Path

import pandas as pd
import pytest

import eltbench
from eltbench import studies
from eltbench.studies.audit import paper

FOLDER = Path(__file__).parents[3] / "results" / "audit"
SUMMARY = pd.read_csv(FOLDER / "summary.csv")
LINE = ["kind", "table", "model", "metric", "convention", "claim", "statement", "value", "reported", "fits", "reason"]


def printed_figures():
    """Every figure that a row of a table prints of what the audit asks for."""
    columns = ("params_m", "gflops_k", "effective_depth", "fid", "fvd", "inception_score")
    for name in ("imagenet256_masked", "imagenet256_diffusion", "ucf101_masked", "throughput_tpu_v6e"):
        table = paper.table(name)
        for _, row in table.iterrows():
            for column in (*columns, "throughput_ratio_vs_same_scale_baseline"):
                if pd.notna(row.get(column)):
                    yield name, row.iloc[0], column, row[column]


@pytest.mark.parametrize(("table", "model", "quantity", "figure"), list(printed_figures()))
def test_every_printed_figure_has_a_verdict(table, model, quantity, figure):
    lines = SUMMARY[(SUMMARY["kind"] == "recount") & (SUMMARY["table"] == table)]
    (line,) = lines[(lines["model"] == model) & (lines["quantity"] == quantity)].itertuples()
    assert line.reported == figure
    assert line.verdict in ("fits", "fits only with another step count", "no convention fits", "cannot be recomputed")


PAPER = [claim.id for its in studies.claims().values() for claim in its if claim.paper_section]


@pytest.mark.parametrize("claim", PAPER)
def test_every_claim_has_a_line_that_holds_or_says_why_not(claim):
    lines = SUMMARY[SUMMARY["claim"] == claim]
    assert len(lines)
    assert (lines["verdict"].isin(["holds", "does not hold"]) | lines["reason"].notna()).all()


@pytest.mark.slow
def test_the_published_verdicts_equal_a_recomputation(tmp_path):
    study = studies.create("audit")
    rows = study.stamped("paper", study.read())
    pd.testing.assert_frame_equal(eltbench.load_rows(FOLDER)[LINE], rows[LINE])
    study.summarise(rows).to_csv(tmp_path / "summary.csv", index=False, float_format="%.6g")
    assert (tmp_path / "summary.csv").read_text() == (FOLDER / "summary.csv").read_text()
    assert json.loads((FOLDER / "claims.json").read_text())["verdicts"] == SUMMARY["verdict"].value_counts().to_dict()


def test_it_was_made_from_a_clean_commit_by_the_plain_command():
    rows = eltbench.load_rows(FOLDER)
    (entry,) = json.loads((FOLDER / "provenance.json").read_text())["commands"]
    assert set(rows["git_commit"]) == {entry["git_commit"]}
    assert entry["git_dirty"] is False
    assert not rows["git_dirty"].any()
    assert entry["command"] == "python -m eltbench.studies.audit"


@pytest.mark.slow
def test_it_can_be_loaded_beside_the_studies_of_trained_models():
    rows = eltbench.load_rows(FOLDER.parent)
    assert {"audit", "extrapolation"} <= set(rows["study"])
