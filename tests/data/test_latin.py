"""Latin squares: counts known from the literature, posteriors by brute force, and a split without renamed copies."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from eltbench import data, tasks
from eltbench.data import latin
from eltbench.evaluation.signals.per_sample import loss_apart

WORLD = latin.Latin()
SQUARES = latin.squares()


def excess_over_bayes(logits, tokens) -> np.ndarray:
    return loss_apart(latin.posterior(tokens), logits)[0]


def irreducible(tokens) -> np.ndarray:
    return loss_apart(latin.posterior(tokens), np.zeros((*tokens.shape, 4)))[1]


def is_latin(tokens) -> bool:
    """By the definition, in plain Python."""
    grid = [list(tokens[4 * row : 4 * row + 4]) for row in range(4)]
    columns = [list(column) for column in zip(*grid, strict=True)]
    return all(sorted(line) == [0, 1, 2, 3] for line in grid + columns)


def masked(seed: int, items: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Random squares, whole and with cells hidden."""
    rng = np.random.default_rng(seed)
    whole = SQUARES[rng.integers(576, size=items)]
    return whole, np.where(rng.random(whole.shape) < rate, latin.MASK, whole)


def intercalates(square) -> int:
    """How many 2x2 subsquares a square has: 12 for the table of Z2 x Z2 and 4 for that of Z4 (McKay, Wanless 1999)."""
    grid = square.reshape(4, 4)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    return sum(grid[r, c] == grid[s, d] and grid[r, d] == grid[s, c] for (r, s), (c, d) in product(pairs, pairs))


def test_there_are_576_distinct_squares_of_which_four_are_reduced():
    """OEIS A002860 and A000315."""
    assert len({tuple(square) for square in SQUARES.tolist()}) == 576
    assert all(is_latin(square) for square in SQUARES)
    reduced = (SQUARES[:, :4] == np.arange(4)).all(1) & (SQUARES[:, ::4] == np.arange(4)).all(1)
    assert reduced.sum() == 4


def test_the_split_is_fixed_and_parts_all_squares():
    training, heldout = WORLD.training().values, WORLD.heldout().values
    assert (len(training), len(heldout)) == (384, 192)
    assert np.array_equal(np.unique(np.concatenate([training, heldout]), axis=0), SQUARES)
    assert np.array_equal(heldout, data.create("latin").heldout().values)


def test_no_heldout_square_is_a_training_square_under_other_names():
    training = {tuple(square) for square in WORLD.training().values.tolist()}
    for square in WORLD.heldout().values:
        for names in permutations(range(4)):
            assert tuple(np.array(names)[square].tolist()) not in training


def test_both_splits_hold_the_two_kinds_of_square_three_to_one():
    for split, items in ((WORLD.training(), 384), (WORLD.heldout(), 192)):
        found = [intercalates(square) for square in split.values]
        assert (found.count(4), found.count(12)) == (items * 3 // 4, items // 4)


def test_permuted_rows_lead_across_the_split_as_the_module_says():
    training = {tuple(square) for square in WORLD.training().values.tolist()}
    crossing = [
        any(tuple(square.reshape(4, 4)[list(rows)].ravel().tolist()) in training for rows in permutations(range(4)))
        for square in WORLD.heldout().values
    ]
    assert any(crossing)


def test_batches_are_uniform_over_the_training_squares():
    clean = WORLD.batch(np.random.default_rng(0), 384 * 40)
    seen, counts = np.unique(clean.values, axis=0, return_counts=True)
    assert np.array_equal(seen, np.unique(WORLD.training().values, axis=0))
    assert chisquare(counts).pvalue > 1e-3


def test_items_have_the_form_that_the_spec_declares_and_the_task_masks_them():
    spec, clean = WORLD.spec, WORLD.batch(np.random.default_rng(0), 64)
    assert (spec.kind, spec.grid, spec.vocabulary, spec.classes) == ("tokens", (4, 4), 4, 0)
    assert (clean.values.shape, clean.values.dtype, clean.hidden) == ((64, 16), np.int32, None)
    assert clean.labels.tolist() == [0] * 64
    batch = tasks.create("masked").corrupt(clean, spec, np.random.default_rng(1))
    assert np.array_equal(batch.inputs == latin.MASK, batch.weight > 0)
    assert 1 < batch.weight.sum(1).mean() < 16


def fillings(tokens):
    """Every Latin square that completes an item, by backtracking over its hidden cells."""
    if latin.MASK not in tokens:
        yield tokens
        return
    cell = tokens.index(latin.MASK)
    row, column = divmod(cell, 4)
    seen = set(tokens[4 * row : 4 * row + 4]) | set(tokens[column::4])
    for symbol in set(range(4)) - seen:
        yield from fillings([*tokens[:cell], symbol, *tokens[cell + 1 :]])


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_the_posterior_is_the_share_of_the_completions_that_backtracking_finds(rate):
    _, tokens = masked(int(10 * rate), 20, rate)
    posterior = latin.posterior(tokens)
    for number, item in enumerate(tokens.tolist()):
        found = np.array(list(fillings(item)))
        np.testing.assert_allclose(posterior[number], np.eye(4)[found].mean(0), atol=1e-12)


def test_the_posterior_of_an_empty_square_is_uniform_and_of_a_whole_one_certain():
    empty = np.full((1, 16), latin.MASK)
    np.testing.assert_allclose(latin.posterior(empty), 0.25)
    np.testing.assert_allclose(irreducible(empty), np.log(4))
    assert np.array_equal(latin.posterior(SQUARES[:5]), np.eye(4)[SQUARES[:5]])
    assert irreducible(SQUARES[:5]).max() == 0


def test_cells_that_belong_to_no_square_have_no_posterior():
    tokens = np.full((3, 16), latin.MASK)
    tokens[1, :2] = 2
    with pytest.raises(ValueError, match="no square has the seen cells of item 1"):
        latin.posterior(tokens)
    # Rows and columns without a repetition, but no symbol is left for the last cell of the first row.
    tokens = np.array([[0, 1, 2, 4, 4, 4, 4, 3] + [4] * 8])
    with pytest.raises(ValueError, match="no square has the seen cells of item 0"):
        latin.posterior(tokens)


@given(seed=st.integers(0, 2**20), rate=st.floats(0.1, 1.0))
@settings(max_examples=25)
def test_the_expected_loss_is_irreducible_plus_excess_whatever_is_predicted(seed, rate):
    _, tokens = masked(seed, 8, rate)
    logits = 3 * np.random.default_rng(seed).standard_normal((8, 16, 4))
    log_predicted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected_loss = -(latin.posterior(tokens) * log_predicted).sum(-1)
    excess = excess_over_bayes(logits, tokens)
    np.testing.assert_allclose(expected_loss, irreducible(tokens) + excess, atol=1e-12)
    assert excess.min() > -1e-12


def test_the_exact_prediction_has_no_excess_and_a_certain_error_has_an_infinite_one():
    _, tokens = masked(3, 20, 0.6)
    with np.errstate(divide="ignore"):
        exact = np.log(latin.posterior(tokens))
    np.testing.assert_allclose(excess_over_bayes(exact, tokens), 0, atol=1e-12)
    wrong = np.where(np.arange(4) == (SQUARES[:1, :, None] + 1) % 4, 0.0, -np.inf)
    assert np.isposinf(excess_over_bayes(wrong, SQUARES[:1])).all()


def test_over_all_squares_and_one_mask_the_realised_loss_of_the_posterior_is_the_irreducible_one():
    """The mean of -ln p(true) over all 576 squares under one mask, against the mean entropy of the posterior."""
    hidden = np.random.default_rng(5).random(16) < 0.6
    tokens = np.where(hidden, latin.MASK, SQUARES)
    true = np.take_along_axis(latin.posterior(tokens), SQUARES[..., None], axis=-1)[..., 0]
    assert -np.log(true).mean() == pytest.approx(irreducible(tokens).mean())


def test_rounds_of_naked_singles_of_a_square_worked_by_hand():
    """The hidden corner and its neighbours: two cells fall in the first round and lay open the third."""
    square = [0, 1, 2, 3, 1, 0, 3, 2, 2, 3, 0, 1, 3, 2, 1, 0]
    tokens = np.array([square])
    tokens[0, [0, 1, 4]] = latin.MASK  # the corner sees {2, 3}: open until one of its neighbours is known
    expected = np.zeros(16, int)
    expected[[1, 4]] = 1  # each sees its own full row or column but for the corner's: {2, 3, 0} and {3, 2, 0}
    expected[0] = 2
    assert latin.rounds(tokens).tolist() == [expected.tolist()]


def test_rounds_agree_with_a_plain_solver_and_what_they_solve_is_certain():
    _, tokens = masked(11, 200, 0.6)
    found, certain = latin.rounds(tokens), irreducible(tokens) < 1e-12
    for item, numbers in zip(tokens.tolist(), found.tolist(), strict=True):
        grid, expected, number = list(item), [0 if symbol < 4 else latin.NEVER for symbol in item], 0
        while True:
            number += 1
            singles = {}
            for cell in (cell for cell in range(16) if grid[cell] == latin.MASK):
                row, column = divmod(cell, 4)
                left = set(range(4)) - set(grid[4 * row : 4 * row + 4]) - set(grid[column::4])
                if len(left) == 1:
                    singles[cell] = left.pop()
            if not singles:
                break
            for cell, symbol in singles.items():
                grid[cell], expected[cell] = symbol, number
        assert numbers == expected
    assert certain[found < latin.NEVER].all()
    assert not certain[found == latin.NEVER].all()
    assert certain[found == latin.NEVER].any()  # certain, but not by naked singles


def test_strata_are_the_rounds_where_the_items_say_what_they_hide():
    clean = WORLD.heldout().select(slice(5))
    assert WORLD.strata(clean) is None
    hidden = np.random.default_rng(0).random((5, 16)) < 0.4
    expected = latin.rounds(np.where(hidden, latin.MASK, clean.values))
    assert np.array_equal(WORLD.strata(clean._replace(hidden=hidden)), expected)


def test_valid_samples_are_latin_squares():
    rng = np.random.default_rng(0)
    samples = np.concatenate([SQUARES[:20], rng.integers(4, size=(200, 16)), SQUARES[20:40]])
    samples[3, 0], samples[4, 7] = (samples[3, 0] + 1) % 4, latin.MASK
    assert latin.valid(samples).tolist() == [is_latin(sample) for sample in samples]
    assert latin.valid(samples).sum() == 38


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 15), int), r"integer tokens \(B, 16\), given int64 of shape \(2, 15\)"),
        (np.zeros((2, 16)), "given float64"),
        (np.full((1, 16), 5), r"tokens are 0\.\.3, or 4 where hidden, given 5\.\.5"),
        (np.full((1, 16), -1), r"given -1\.\.-1"),
    ],
)
def test_impossible_tokens_are_refused(tokens, message):
    for function in (latin.posterior, latin.rounds, latin.valid):
        with pytest.raises(ValueError, match=message):
            function(tokens)
