"""The tables of the page: what families add, what rules save, and why a value is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from decisive_rows import STUDY, decisive

import eltbench
from eltbench.evaluation.solving import AS_TRAINED, HARDER
from eltbench.studies.disagreement import markdown as disagreement_page
from eltbench.studies.disagreement.figure import figure


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


def solving():
    """Rows of elt on puzzles under one rule: all, easier and harder items, up to L_max and beyond; three seeds."""
    (first, *_) = decisive().to_dict("records")
    known = {"scope": "equal solving", "target": "unsolved", "signal": None, "rule": "kl"}
    whole = {"solved": 0.8, "solved_over_full": -0.01, "loops_saved": 0.3, "flops_saved": 0.29}
    whole |= {"loops_saved_over_fixed": 0.2, "loops_by_difficulty": 0.7, "loops_run": 3.0}
    cells = [(metric, None, value) for metric, value in whole.items()]
    cells += [("loops_run", AS_TRAINED, 2.0), ("loops_run", HARDER, 5.0)]
    cells += [("loops_run", f"difficulty {level}", float(level)) for level in (1, 2, 10)]
    return pd.DataFrame(
        {**first, **known, "metric": metric, "stratum": stratum, "value": value, "seed": seed, "loops": loops}
        for metric, stratum, value in cells
        for seed in range(3)
        for loops in (4, 16)
    )


def test_the_page_shows_what_a_rule_saves_on_puzzles_and_where_it_stops_harder_ones(tmp_path):
    STUDY.summarise(solving()).to_csv(tmp_path / "summary.csv", index=False)
    page = disagreement_page.markdown(pd.read_csv(tmp_path / "summary.csv"))
    shares = "0.800 | -0.010 [-0.010, -0.010] | 30 % [30, 30] | 29 % [29, 29] | 20 % [20, 20]: **more**"
    lines = [
        f"| masked latin torch, {of} loops | `kl` | {shares} | 2.0 | 5.0 | +0.700 [+0.700, +0.700] |" for of in (4, 16)
    ]
    assert page.splitlines()[-2:] == lines


def test_the_figure_shows_the_loops_of_puzzles_by_difficulty_up_to_l_max_and_beyond():
    axis = STUDY.figure(pd.concat([decisive(), solving()])).axes[3]
    assert axis.get_title() == "masked · latin: loops run at equal solving"
    at_max, further = axis.get_lines()
    for line in (at_max, further):  # by number, not by name
        assert line.get_xdata().tolist() == line.get_ydata().tolist() == [1, 2, 10]
    assert (at_max.get_linestyle(), further.get_linestyle()) == ("-", "--")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["kl: 30 % and 30 % saved"]


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


@pytest.mark.slow
def test_a_rule_looks_alike_in_every_panel_and_like_no_other():
    rows = eltbench.load_rows(Path(__file__).parents[3] / "results" / "disagreement" / "digits")
    looks: dict[str, set] = {}
    for axis in figure(rows).axes:
        if axis.get_title().endswith(("stopping early", "along sampling")):
            for line in axis.get_lines():
                if not line.get_label().startswith("_"):
                    rule = line.get_label().partition(":")[0]
                    looks.setdefault(rule, set()).add((line.get_color(), line.get_marker(), line.get_linestyle()))
    assert {"kl", "entropy", "fixed", "oracle", "learned-gate"} <= set(looks)
    assert all(len(its) == 1 for its in looks.values())
    assert len(set().union(*looks.values())) == len(looks)
