"""Values that users write: every name and every type is checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from eltbench import trainers
from eltbench.core.config import Optimisation
from eltbench.core.registry import Registry, allow
from eltbench.core.validation import build
from eltbench.trainers import Trainer


@dataclass(frozen=True)
class Soup:
    kind: Literal["cold", "hot"]
    spoons: int = 1
    salt: float = 0.5
    plates: tuple[int, ...] = ()
    extras: Mapping[str, int] = field(default_factory=dict)
    lid: int | None = None


def test_lists_stand_for_tuples_and_whole_numbers_for_floats():
    assert build(Soup, {"kind": "hot", "plates": [1, 2], "salt": 1, "lid": None}) == Soup("hot", 1, 1, (1, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "hot", "spons": 2}, "unknown soup field 'spons'; did you mean 'spoons'"),
        ({"spoons": 2}, "soup: kind is missing, given spoons"),
        ({"kind": "warm"}, "soup: kind is given as 'warm'"),
        ({"kind": "hot", "spoons": "2"}, "soup: spoons is given as '2'"),
        ({"kind": "hot", "spoons": 2.5}, "soup: spoons is given as 2.5"),
        ({"kind": "hot", "plates": [1, "two"]}, "soup: plates is given as"),
        ({"kind": "hot", "extras": 3}, "soup: extras is given as 3"),
        ({"kind": "hot", "extras": {"basil": "x"}}, "soup: extras is given as"),
        ({"kind": "hot", "spoons": True}, "soup: spoons must be a number, given True"),
        ({"kind": "hot", "salt": False}, "soup: salt must be a number, given False"),
        ({"kind": "hot", "plates": [1, True]}, r"soup: plates must be a number, given \(1, True\)"),
        ({"kind": "hot", "lid": True}, "soup: lid must be a number, given True"),
        ({"kind": "hot", "salt": float("nan")}, "soup: salt must be finite, given nan"),
        ({"kind": "hot", "lid": "1"}, "soup: lid is given as '1'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_given(values, message):
    with pytest.raises(ValueError, match=message):
        build(Soup, values)


@pytest.mark.parametrize(
    "values",
    [{"betas": [0.9]}, {"betas": 3}, {"betas": [0.9, 1.0]}, {"learning_rate": [1]}, {"learning_rate": -1.0},
     {"gradient_clip": 0}, {"weight_decay": -0.1}, {"steps": "3"}],
)  # fmt: skip
def test_an_optimisation_that_cannot_be_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        build(Optimisation, values)


def test_an_option_of_another_type_is_refused_when_the_part_is_made():
    with pytest.raises(ValueError, match="trainer 'universal-transformer': ponder_cost is given as 'x'"):
        trainers.create("universal-transformer", ponder_cost="x")


def test_a_trainer_that_lacks_a_method_is_refused_by_name():
    own: Registry[Trainer] = Registry("trainer", "own_trainers")
    own.register("unfinished")(type("Unfinished", (Trainer,), {"depth": "looped"}))
    with pytest.raises(ValueError, match="'unfinished' is not complete: it lacks exits, objective"):
        own.create("unfinished")


def test_a_file_with_a_syntax_error_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_soup.py").write_text("class Trainer(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    allow("broken_soup:Trainer")
    with pytest.raises(ValueError, match=r"cannot be loaded: .*broken_soup"):
        trainers.get("broken_soup:Trainer")
