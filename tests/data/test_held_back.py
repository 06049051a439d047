"""Validation items: training items that no step of a run sees, and that are none of the held-out ones."""

import numpy as np
import pytest

from eltbench import data
from eltbench.core.config import Run
from eltbench.data.base import Clean, Dataset, DataSpec
from eltbench.data.form import check_splits
from eltbench.data.held_back import WithValidation
from eltbench.training.identity import run_id
from eltbench.training.loop import parts

WORLDS = [
    ("digits", {}),
    ("digits-codes", {"codes": 8}),
    ("group", {}),
    ("latin", {}),
    pytest.param("maze", {}, marks=pytest.mark.slow),
    ("relay", {"length": 4}),
    pytest.param("sudoku", {"size": 4, "puzzles": 64, "hardest": 1, "heldout_items": 8}, marks=pytest.mark.slow),
]


def contents(clean: Clean) -> list[bytes]:
    """What each item is, but for its label and for what of it is hidden."""
    context = clean.values[:, :0] if clean.context is None else clean.context
    return [value.tobytes() + seen.tobytes() for value, seen in zip(clean.values, context, strict=True)]


@pytest.mark.parametrize(("name", "options"), WORLDS)
def test_no_batch_holds_a_validation_item_and_no_held_out_item_is_one(name, options):
    whole = data.create(name, **options)
    world = WithValidation(whole)
    check_splits(world)
    back = set(contents(world.heldout()))
    drawn = [world.batch(np.random.default_rng(seed), 256) for seed in range(8)]
    assert all(len(batch.labels) == 256 for batch in drawn)
    assert not back & {item for batch in drawn for item in contents(batch)}
    assert back <= set(contents(whole.training()))
    assert (world.spec, world.hardest_trained) == (whole.spec, whole.hardest_trained)


def test_training_and_validation_items_are_the_training_split():
    whole = data.create("digits")
    world = WithValidation(whole)
    both = contents(world.training()) + contents(world.heldout())
    assert sorted(both) == sorted(contents(whole.training()))
    assert len(world.heldout().labels) == pytest.approx(1440 / 8, rel=0.2)


def test_an_item_that_was_drawn_anew_is_whole():
    """In relay each colour follows from the gate before it, so an item mixed of two would break the rule."""
    world = WithValidation(data.create("relay", length=4))
    batch = world.batch(np.random.default_rng(0), 512)
    colours, gates = batch.values, batch.context
    assert ((colours[:, :-1] + gates[:, 1:]) % 4 == colours[:, 1:]).all()


class Few(Dataset):
    """A world of the numbers 1 to `items`."""

    name, version = "few", 1

    def __init__(self, items: int) -> None:
        self.items = items

    @property
    def spec(self):
        return DataSpec("tokens", (1, 1), vocabulary=65)

    def training(self):
        return Clean(1 + np.arange(self.items, dtype=np.int32)[:, None], np.zeros(self.items, np.int32))

    heldout = training

    def batch(self, rng, size):
        return self.training().select(rng.integers(self.items, size=size))


def test_too_small_a_training_split_is_refused():
    kept = next(items for items in range(1, 64) if WithValidation(Few(items))._held_back(Few(items).training()).any())
    assert len(WithValidation(Few(kept)).heldout().labels) == 1
    with pytest.raises(ValueError, match=f"ten items or more, given {kept - 1}"):
        WithValidation(Few(kept - 1)).heldout()


def test_a_run_on_validation_items_is_another_run():
    run = Run("elt", "diffusion", "digits")
    chosen_by = Run("elt", "diffusion", "digits", validation=True)
    assert run_id(run) != run_id(chosen_by)
    heldout = contents(parts(run).dataset.heldout())
    assert not set(heldout) & set(contents(parts(chosen_by).dataset.heldout()))
