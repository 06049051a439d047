from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from eltbench.data.base import Clean, DataSpec
from eltbench.tasks import masked
from eltbench.tasks.base import ExitOutput
from eltbench.tasks.masked import Masked, MaskedSampling

VOCABULARY, TOKENS = 7, 64
MASK = VOCABULARY
SPEC = DataSpec("tokens", (8, 8), vocabulary=VOCABULARY, classes=10)


def clean_items(items: int, seed: int = 0) -> Clean:
    rng = np.random.default_rng(seed)
    values = rng.integers(VOCABULARY, size=(items, TOKENS)).astype(np.int32)
    return Clean(values, rng.integers(10, size=items).astype(np.int32))


def logits_for(items: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (items, TOKENS, VOCABULARY)).astype(np.float32)


def random_network(inputs, labels, log_snr, context, loops):
    return logits_for(len(inputs), seed=int((inputs == MASK).sum()))


def states(predict, ops, *, items=5, loops=3, given=None, seed=0, **options):
    rng, labels = np.random.default_rng(seed), np.zeros(items, np.int32)
    return Masked().sample(predict, SPEC, labels, loops, rng, ops, MaskedSampling(**options), given)


# Decoding


def test_the_number_masked_after_each_step_follows_the_cosine_schedule(numpy_ops):
    left = [(state == MASK).sum(axis=1) for state in states(random_network, numpy_ops, steps=8)]
    revealed = -np.diff([np.full(5, TOKENS), *left], axis=0)
    assert revealed.tolist() == [[count] * 5 for count in (2, 3, 6, 8, 10, 11, 12, 12)]


def test_gumbel_noise_is_that_of_numpy_s_own_generator_and_leaves_it_at_the_same_place():
    ours, numpys = np.random.default_rng(5), np.random.default_rng(5)
    noise = masked.gumbel(ours, (40, 16, 64))
    assert noise.dtype == np.float32
    np.testing.assert_array_max_ulp(noise, numpys.gumbel(size=(40, 16, 64)).astype(np.float32), maxulp=1)
    assert ours.random() == numpys.random()


def test_a_revealed_token_never_changes(numpy_ops):
    trajectory = list(states(random_network, numpy_ops, steps=8))
    for before, after in pairwise(trajectory):
        known = before != MASK
        assert np.array_equal(after[known], before[known])


def test_given_tokens_stay_and_the_schedule_counts_the_hidden_ones(numpy_ops):
    clean = clean_items(5)
    hidden = np.random.default_rng(1).random((5, TOKENS)).argsort(axis=1) < 20
    trajectory = list(states(random_network, numpy_ops, given=clean._replace(hidden=hidden), steps=4))
    for state in trajectory:
        assert np.array_equal(state[~hidden], clean.values[~hidden])
    left = [(state == MASK).sum(axis=1).tolist() for state in trajectory]
    assert left == [[count] * 5 for count in (18, 14, 7, 0)]  # ⌊20 cos(π/8)⌋, ⌊20 cos(π/4)⌋, ⌊20 cos(3π/8)⌋


def test_items_that_hide_nothing_come_back_as_they_are(numpy_ops):
    clean = clean_items(3)
    given_all = clean._replace(hidden=np.zeros((3, TOKENS), bool))
    for state in states(random_network, numpy_ops, items=3, given=given_all, steps=3):
        assert np.array_equal(state, clean.values)


def test_items_that_hide_different_numbers_each_follow_their_own_schedule(numpy_ops):
    hidden = np.zeros((3, TOKENS), bool)
    hidden[0, :3] = hidden[1, :10] = True
    clean = clean_items(3)
    trajectory = list(states(random_network, numpy_ops, items=3, given=clean._replace(hidden=hidden), steps=4))
    left = [(state == MASK).sum(axis=1).tolist() for state in trajectory]
    assert left == [[2, 9, 0], [1, 7, 0], [1, 3, 0], [0, 0, 0]]  # ⌊10 cos(π/8)⌋, ⌊10 cos(π/4)⌋, ⌊10 cos(3π/8)⌋
    for state in trajectory:
        assert np.array_equal(state[~hidden], clean.values[~hidden])


@settings(deadline=None)
@given(
    arrays.arrays(np.int32, (2, 12), elements=st.integers(0, VOCABULARY)),
    st.integers(0, 2**32 - 1),
    st.floats(0, 10),
    st.data(),
)
def test_the_least_confident_are_masked_again_and_known_tokens_keep_their_places(numpy_ops, tokens, seed, choice, data):
    rng = np.random.default_rng(seed)
    still_masked = data.draw(st.integers(0, int((tokens == MASK).sum(axis=1).min())))
    logits, noise = rng.normal(size=(2, 12, VOCABULARY)), rng.gumbel(size=(2, 12, VOCABULARY))
    choice_noise = rng.gumbel(size=(2, 12))
    state = masked.reveal(tokens, logits, noise, choice_noise, 0.7, choice, still_masked, numpy_ops)
    assert np.array_equal(state[tokens != MASK], tokens[tokens != MASK])
    assert ((state == MASK).sum(axis=1) == still_masked).all()
    sampled = (logits / 0.7 + noise).argmax(-1)
    confidence = np.take_along_axis(special.log_softmax(logits, -1), sampled[..., None], -1)[..., 0]
    confidence += choice * choice_noise
    for row in range(2):
        again, revealed = state[row] == MASK, (tokens[row] == MASK) & (state[row] != MASK)
        assert np.array_equal(state[row][revealed], sampled[row][revealed])
        if again.any() and revealed.any():
            assert confidence[row][again].max() <= confidence[row][revealed].min()


def test_tokens_are_drawn_from_the_softmax_at_the_given_temperature(numpy_ops):
    draws, temperature = 20_000, 1.2
    logits = np.array([1.0, 0.0, -1.0, 2.0, 0.5, -2.0, 0.1])
    rng = np.random.default_rng(0)
    state = masked.reveal(
        np.full((1, draws), MASK),
        np.broadcast_to(logits, (1, draws, VOCABULARY)),
        rng.gumbel(size=(1, draws, VOCABULARY)),
        rng.gumbel(size=(1, draws)),
        temperature,
        4.5,
        0,
        numpy_ops,
    )
    observed = np.bincount(state[0], minlength=VOCABULARY)
    assert stats.chisquare(observed, draws * special.softmax(logits / temperature)).pvalue > 0.001


def test_temperatures_fall_as_the_paper_says_and_choice_temperature_to_zero(numpy_ops, monkeypatch):
    seen = []

    def spy(tokens, logits, token_noise, choice_noise, temperature, choice_temperature, still_masked, ops):
        seen.append((temperature, choice_temperature))
        return tokens

    monkeypatch.setattr(masked, "reveal", spy)
    list(states(random_network, numpy_ops, steps=4))
    temperatures, choice = zip(*seen, strict=True)
    assert temperatures == pytest.approx((0.5 + 0.8 * 0.75, 0.5 + 0.8 * 0.5, 0.5 + 0.8 * 0.25, 0.5))
    assert choice == pytest.approx((4.5 * 0.75, 4.5 * 0.5, 4.5 * 0.25, 0))


def test_more_steps_than_tokens_still_end_with_every_token_known(numpy_ops):
    hidden = np.zeros((2, TOKENS), bool)
    hidden[:, 10:13] = True
    *_, last = states(random_network, numpy_ops, items=2, given=clean_items(2)._replace(hidden=hidden), steps=9)
    assert (last != MASK).all()


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"temperature": 0.0}, {"temperature": 0.5, "temperature_slope": -0.6}, {"temp": 1.0}]
)
def test_impossible_sampling_settings_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Masked().sampling(**options)


@pytest.mark.parametrize("options", [{"minimum_mask_rate": 1.5}, {"label_smoothing": -0.1}], ids=str)
def test_impossible_rates_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Masked(**options)


# The contract of the generator


def test_a_state_follows_every_step_and_a_sent_integer_changes_the_loops_of_the_next(numpy_ops):
    calls = []

    def counting(inputs, labels, log_snr, context, loops):
        calls.append(loops)
        return random_network(inputs, labels, log_snr, context, loops)

    drawing = states(counting, numpy_ops, loops=4, steps=5)
    next(drawing)
    assert calls == [4]
    drawing.send(1)
    drawing.send(6)
    assert calls == [4, 1, 6]
    drawing.close()  # stopping early is allowed
    assert calls == [4, 1, 6]
    assert len(list(states(counting, numpy_ops, steps=5))) == 5


# Corruption and loss


def test_corruption_masks_the_counted_positions_uniformly_and_leaves_the_rest():
    clean = clean_items(4000)
    batch = Masked().corrupt(clean, SPEC, np.random.default_rng(0))
    hidden = batch.weight.astype(bool)
    assert (batch.inputs[hidden] == MASK).all()
    assert np.array_equal(batch.inputs[~hidden], clean.values[~hidden])
    assert batch.target is clean.values
    assert batch.log_snr is None
    counts = np.arange(1, TOKENS + 1)
    observed = (hidden.sum(axis=1)[:, None] <= counts).mean(axis=0)
    expected = 1 - 2 / np.pi * np.arccos(counts / TOKENS)  # P(⌈64 cos(πr/2)⌉ ≤ count), r uniform
    assert np.abs(observed - expected).max() < 0.031  # Dvoretzky-Kiefer-Wolfowitz, 0.1 %
    assert hidden.mean(axis=0) == pytest.approx(2 / np.pi, abs=0.04)


def test_a_world_that_says_what_is_hidden_is_masked_exactly_there():
    clean = clean_items(6)
    hidden = np.random.default_rng(5).random((6, TOKENS)) < 0.3
    batch = Masked().corrupt(clean._replace(hidden=hidden), SPEC, np.random.default_rng(0))
    assert np.array_equal(batch.inputs == MASK, hidden)
    assert len(Masked().heldout(clean._replace(hidden=hidden), SPEC, np.random.default_rng(0), draws=4)) == 1


def test_loss_is_the_mean_cross_entropy_over_all_masked_positions(numpy_ops):
    batch = Masked().corrupt(clean_items(9), SPEC, np.random.default_rng(0))
    output = ExitOutput(logits_for(9))
    probability = special.softmax(output.prediction.astype(np.float64), axis=-1)
    rows, columns = np.nonzero(batch.weight)
    expected = -np.log(probability[rows, columns, batch.target[rows, columns]]).mean()
    assert Masked().loss(output, batch, numpy_ops) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution(numpy_ops):
    batch = Masked().corrupt(clean_items(9), SPEC, np.random.default_rng(0))
    output = ExitOutput(logits_for(9))
    target = 0.9 * np.eye(VOCABULARY)[batch.target] + 0.1 / VOCABULARY
    soft = -(target * special.log_softmax(output.prediction.astype(np.float64), axis=-1)).sum(-1)
    expected = soft[batch.weight.astype(bool)].mean()
    assert Masked(label_smoothing=0.1).loss(output, batch, numpy_ops) == pytest.approx(expected, rel=1e-5)


def test_loss_is_the_mean_of_errors_under_the_item_weights(numpy_ops):
    batch = Masked().corrupt(clean_items(9), SPEC, np.random.default_rng(0))
    output = ExitOutput(logits_for(9))
    errors = Masked().errors(output, batch, numpy_ops)
    assert errors.shape == (9,)
    expected = np.average(errors, weights=Masked().item_weights(batch))
    assert Masked().loss(output, batch, numpy_ops) == pytest.approx(expected, rel=1e-6)


def test_distillation_is_the_cross_entropy_with_the_teachers_whole_distribution(numpy_ops):
    batch = Masked().corrupt(clean_items(9), SPEC, np.random.default_rng(0))
    student, teacher = logits_for(9, 1).astype(np.float64), logits_for(9, 2).astype(np.float64)
    p, q = special.softmax(teacher, axis=-1), special.softmax(student, axis=-1)
    expected = (special.rel_entr(p, q) + special.entr(p)).sum(-1)[batch.weight.astype(bool)].mean()
    value = Masked().distillation(ExitOutput(student), ExitOutput(teacher), batch, numpy_ops)
    assert value == pytest.approx(expected, rel=1e-6)


def test_heldout_levels_are_stratified_per_item_and_labels_are_kept():
    clean, draws = clean_items(50), 8
    batches = Masked().heldout(clean, SPEC, np.random.default_rng(0), draws)
    assert len(batches) == draws
    for draw, batch in enumerate(batches):
        assert np.array_equal(batch.labels, clean.labels)
        share = batch.weight.mean(axis=1)
        most, least = np.cos(np.pi / 2 * np.array([draw, draw + 1]) / draws)
        assert (share <= most + 1 / TOKENS).all()
        assert (share >= least).all()


def test_the_same_stream_gives_the_same_batch_and_another_gives_another():
    first, again, other = (Masked().corrupt(clean_items(8), SPEC, np.random.default_rng(s), 0.5) for s in (0, 0, 1))
    for field, repeated in zip(first, again, strict=True):
        assert np.array_equal(field, repeated) or field is repeated is None
    assert not np.array_equal(first.inputs, other.inputs)
