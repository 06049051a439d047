"""What the rows of the paper's tables imply for one another and for the claims, declared in `statements.toml`.

A statement is the paper's own (its claim is named), or says what the tables should satisfy if sharing layers were all
that differs between two rows. They are held against the tables in `consequences`.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import NamedTuple

MASKED, DIFFUSION, VIDEO = "imagenet256_masked", "imagenet256_diffusion", "ucf101_masked"
HIGHER_IS_BETTER = {"fid": False, "fvd": False, "inception_score": True}


class Pair(NamedTuple):
    """A model, and the baseline of its table that the paper sets beside it."""

    table: str
    model: str
    baseline: str


class Quote(NamedTuple):
    """Figures of one column that a claim's reference quotes, by row."""

    claim: str
    table: str
    column: str
    figures: dict[str, str]


_DECLARED = tomllib.loads((files(__package__) / "statements.toml").read_text(encoding="utf-8"))
PAIRS = [Pair(*names) for names in _DECLARED["pairs"]]
FACTORS = [(it["claim"], Pair(*it["pair"]), it["factor"]) for it in _DECLARED["factors"]]
QUOTES = [Quote(**it) for it in _DECLARED["quotes"]]
ONE_CONVENTION, STEP_COSTS = _DECLARED["one_convention"], _DECLARED["step_costs"]
UNCHECKED, WITHOUT_FIGURE = _DECLARED["unchecked"], _DECLARED["without_figure"]
