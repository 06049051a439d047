"""A study of the user's own: its claims are checked, its measurements are its own."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace

import pytest
from preset_files import STUDY

from eltbench.studies.presets import load_preset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": ("elastic",)}, "its claims are of evidence.claims.Claim, given 'elastic'"),
        (
            {"claims": (replace(STUDY.claims[0], needs=({"trianer": "elt"},)),)},
            "unknown column in the needs of claim 'elastic' 'trianer'; did you mean 'trainer'?",
        ),
        ({"compared_within": ("task", "size")}, "unknown column in compared_within 'size'; "),
    ],
)
def test_what_a_study_says_of_its_claims_is_checked_before_any_training(changes, message):
    mine = type("Mine", (type(STUDY),), changes)()
    with pytest.raises(ValueError, match=f"^study 'extrapolation': {re.escape(message)}"):
        mine.plan(load_preset("extrapolation", "quick"))


def test_a_measurement_by_a_study_of_the_same_name_in_another_project_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    preset, digests = load_preset("extrapolation", "quick"), []
    for number, extra in enumerate(("", "", "    draws = 2\n")):
        text = "from eltbench.studies.extrapolation.study import Extrapolation\n\n\n"
        text += "class Mine(Extrapolation):\n    version = 1\n"
        (tmp_path / f"own_study_{number}.py").write_text(text + extra)
        mine = importlib.import_module(f"own_study_{number}").Mine()
        digests.append({job.digest for job in mine.plan(preset)})
    first, same, other = digests
    assert first == same
    assert not first & other
