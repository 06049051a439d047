"""A small preset to vary, and the refusal that a preset ends in."""

from __future__ import annotations

import pytest

from eltbench import studies
from eltbench.studies.presets import load_preset

STUDY = studies.create("extrapolation")
SMALLEST = """
[{name}]
architecture = {{ unique_layers = 1, max_loops = 2, width = 8, heads = 2 }}
worlds = [{{ task = "diffusion", dataset = "digits" }}]
arms = [{{ trainer = "elt" }}]
"""


def refused(name_or_path, **narrowing):
    with pytest.raises(ValueError, match=r".") as refusal:
        STUDY.plan(load_preset("extrapolation", name_or_path).narrowed(**narrowing))
    return str(refusal.value)
