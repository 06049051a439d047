"""Words over groups against sympy's permutations and plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from sympy.combinatorics import Permutation
from sympy.combinatorics.named_groups import AlternatingGroup, SymmetricGroup

from eltbench import data
from eltbench.data.form import check_splits
from eltbench.data.group import GROUPS, Group, table

ORDERS = {"z2": 2, "z60": 60, "s3": 6, "s5": 120, "a5": 60}


@pytest.mark.parametrize("group", GROUPS)
def test_a_table_is_that_of_a_group_of_the_right_order(group):
    products = table(group)
    elements = np.arange(ORDERS[group])
    assert products.shape == (ORDERS[group], ORDERS[group])
    assert (np.sort(products, axis=0) == elements[:, None]).all()  # every element once in each row and column
    assert (np.sort(products, axis=1) == elements).all()
    assert np.array_equal(products[0], elements)
    assert np.array_equal(products[:, 0], elements)
    left, right = products[products], products[:, products]  # [a, b, c]: (a ∘ b) ∘ c and a ∘ (b ∘ c)
    assert np.array_equal(left, right)


@pytest.mark.parametrize(
    ("group", "peer"), [("s3", SymmetricGroup(3)), ("s5", SymmetricGroup(5)), ("a5", AlternatingGroup(5))]
)
def test_elements_have_the_orders_of_the_named_group(group, peer):
    products = table(group)

    def order(element: int) -> int:
        power, count = element, 1
        while power:
            power, count = int(products[element, power]), count + 1
        return count

    ours = sorted(order(element) for element in range(len(products)))
    assert ours == sorted(int(Permutation(each).order()) for each in peer.elements)


@pytest.mark.parametrize("group", GROUPS)
def test_values_are_the_running_products_of_what_is_seen(group):
    world, products = Group(group, length=6, trained=4, heldout_items=64), table(group)
    check_splits(world)
    for items in (world.batch(np.random.default_rng(0), 64), world.heldout()):
        lengths = world.difficulty(items)
        assert np.array_equal(world.strata(items), np.where(items.hidden, np.arange(1, 7), 0))
        for word, values, hidden, length in zip(items.context, items.values, items.hidden, lengths, strict=True):
            assert hidden.tolist() == [place < length for place in range(6)]
            assert (word[~hidden] == len(products)).all()
            product = 0
            for element, value in zip(word[hidden], values[hidden], strict=True):
                product = int(products[element, product])
                assert value == product


def test_words_longer_than_any_trained_are_held_out():
    world = Group("s3", length=12, trained=4)
    assert set(world.difficulty(world.batch(np.random.default_rng(0), 512))) == set(range(1, 5))
    assert set(world.difficulty(world.heldout())) == set(range(1, 13))
    assert world.hardest_trained == 4


def test_the_last_product_of_a_word_is_uniform_whatever_is_seen_of_the_rest():
    """No element but all of them tells it: with one unseen, every product is as likely."""
    products = table("a5")
    last = products[products[7, np.arange(60)], 33]  # the element between two known ones runs through the group
    assert np.array_equal(np.sort(last), np.arange(60))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "s4"}, "group must be one of z2, z60, s3, s5, a5, given 's4'"),
        ({"length": 1}, "length must be an integer of at least 2, given 1"),
        ({"trained": 17}, "trained must not exceed length, given 17 > 16"),
        ({"trained": True}, "trained must be an integer of at least 1, given True"),
    ],
)
def test_a_world_that_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=f"group: {said}"):
        data.create("group", **options)
