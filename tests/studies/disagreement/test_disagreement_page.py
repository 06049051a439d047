"""The tables of the page: what families add, what rules save, and why a value is missing."""

from __future__ import annotations

import pandas as pd
from decisive_rows import STUDY, decisive

from eltbench.studies.disagreement import markdown as disagreement_page


def test_the_page_shows_what_families_add_and_rules_save_with_the_baseline_they_are_held_against(tmp_path):
    rows = decisive()
    rows = rows[rows["rule"] != "fixed"]  # which these rows do not hold in full
    told = rows["signal"].map({"disagreement": "kl_to_previous over entropy"})
    rows = pd.concat([rows.assign(reason=told), _baseline(rows)], ignore_index=True)
    for metric in ("risk", "loops_saved_by_batch"):
        extra = rows[(rows["metric"] == "loops_saved") & (rows["rule"] == "kl")].assign(metric=metric)
        rows = pd.concat([rows, extra])
    STUDY.summarise(rows).to_csv(tmp_path / "summary.csv", index=False)
    page = disagreement_page.markdown(pd.read_csv(tmp_path / "summary.csv"))
    (gain,) = (line for line in page.splitlines() if "| the error |" in line)
    assert gain.startswith("| masked latin torch | elt | the error | entropy 0.700 | +0.102 [+0.100, +0.104] | +0.102")
    (rule,) = (line for line in page.splitlines() if "`kl`" in line)
    assert rule == "| masked latin torch | `kl` | 0.502 | 0.002 | 50 % [50, 50] | 50 % [50, 50] |"


def test_the_page_shows_what_choosing_samples_by_a_signal_gains_of_what_could_be_gained(tmp_path):
    made = [("auroc", "entropy", 0.6), ("selection_gain", "entropy", 0.1), ("selection_gain", "oracle", 0.4)]
    known = {"target": "invalid", "scope": "sampling", "reason": None}
    (first, *_) = decisive().to_dict("records")
    drawn = [
        {**first, **known, "metric": metric, "signal": signal, "value": value, "seed": seed}
        for metric, signal, value in made
        for seed in range(3)
    ]
    STUDY.summarise(pd.DataFrame(drawn)).to_csv(tmp_path / "summary.csv", index=False)
    page = disagreement_page.markdown(pd.read_csv(tmp_path / "summary.csv"))
    expected = "| masked latin torch | invalid | entropy | 0.600 | +0.100 [+0.100, +0.100] | 25 % |"
    assert page.splitlines()[-1] == expected


def held_page(tmp_path, lows, highs, **known):
    """The page of guarantees whose savings over a fixed depth have these intervals over two seeds."""
    (first, *_) = decisive().to_dict("records")
    first |= {
        "signal": None,
        "scope": None,
        "guarantee": "learn then test",
        "alpha": 0.05,
        "delta": 0.1,
        "target": None,
    }
    rows = []
    for rule, low, high in zip(("kl", "entropy", "learned-gate"), lows, highs, strict=True):
        for seed, value in enumerate((low, high)):
            for metric in ("risk", "violations", "loops_saved", "loops_saved_by_batch", "loops_saved_over_fixed"):
                rows.append({**first, "rule": rule, "metric": metric, "value": value, "seed": seed, **known})
    STUDY.summarise(pd.DataFrame(rows)).to_csv(tmp_path / "summary.csv", index=False)
    return disagreement_page.markdown(pd.read_csv(tmp_path / "summary.csv"))


def test_the_page_decides_what_a_rule_saves_over_a_fixed_depth_by_its_interval(tmp_path):
    page = held_page(tmp_path, (0.2, 0.0, -0.3), (0.201, 0.5, -0.301))
    cells = {line.split("|")[2].strip(): line.split("|")[-2].strip() for line in page.splitlines() if "`" in line}
    assert cells["`kl`"] == "20 % [19, 21]: **more**"
    assert cells["`entropy`"].endswith("undecided")
    assert cells["`learned-gate`"].endswith(": **less**")


def test_the_page_says_why_a_value_inside_sampling_is_missing(tmp_path):
    few = "40 samples calibrate; it takes 45"
    page = held_page(tmp_path, [None] * 3, [None] * 3, scope="sampling", reason=few, alpha=0.2)
    (line,) = (line for line in page.splitlines() if "`kl`" in line)
    assert f"– ({few})" in line
    assert "nan" not in page


def test_halting_is_shown_beside_a_fixed_depth_of_the_same_model(tmp_path):
    page = held_page(tmp_path, (0.2, 0.2, 0.2), (0.2, 0.2, 0.2), trainer="universal-transformer", rule="halting")
    assert "| masked latin torch, universal-transformer | `halting` | 0.200 |" in page


def test_the_page_of_a_summary_without_the_later_measurements_has_no_columns_for_them(tmp_path):
    rows = decisive()
    STUDY.summarise(rows[rows["guarantee"].notna()]).to_csv(tmp_path / "summary.csv", index=False)
    page = disagreement_page.markdown(pd.read_csv(tmp_path / "summary.csv"))
    assert "| `kl` | – | 0.002 | 50 % [50, 50] | – |" in page
    assert "fixed depth" not in page
    assert "inside sampling" not in page


def _baseline(rows):
    """The AUROC of the entropy beside the gains of these rows."""
    gains = rows[(rows["signal"] == "disagreement")]
    return gains.assign(metric="auroc", signal="entropy", value=0.7, reason=None)
