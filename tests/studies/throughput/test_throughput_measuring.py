"""Measuring a preset: fresh processes in turns, noise repeated and then marked, nothing silently dropped."""

from __future__ import annotations

import re
import signal
from dataclasses import replace

import pytest
from made_up import GROUP, Paper

from eltbench.studies.throughput import measuring
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.timing_process import ProcessError

TWO = preset_from_table("made-up", {"processes": 3, "groups": [{**GROUP, "widths": [32, 64]}]})
FIRST, SECOND = TWO.cells


def test_every_cell_has_a_process_of_every_nursery_and_cells_take_turns():
    paper = Paper()
    ceilings, records = measuring.measure(TWO, nursery=paper)
    assert paper.nurseries == 1 + 3
    assert [(each.cell, each.process) for each in records] == [(c, p) for p in range(3) for c in TWO.cells]
    assert set(ceilings.rates["fp32"]) == FIRST.shapes | SECOND.shapes
    assert all(each.last and not each.noisy for each in records)
    assert len({message["seed"] for message in paper.asked[1:]}) == 6


def test_a_noisy_process_is_repeated_and_the_quiet_repetition_counts():
    _, records = measuring.measure(TWO, nursery=Paper(noisy={FIRST.id: 1}))
    its = [each for each in records if each.cell == FIRST and each.process == 0]
    assert [(each.attempt, each.noisy, each.last) for each in its] == [(0, True, False), (1, False, True)]
    assert len(records) == 7


def test_what_was_noisy_is_repeated_after_all_others_have_had_their_turns():
    paper = Paper(noisy={FIRST.id: 1})
    told = []
    measuring.measure(TWO, lambda *each: told.append(each), paper)
    asked = [(message["cell"]["width"], message["process"]) for message in paper.asked[1:]]
    assert asked == [(cell.width, process) for process in range(3) for cell in TWO.cells] + [(FIRST.width, 0)]
    assert told[-2:] == [(7, 8, f"{FIRST.name}, again: it was noisy"), (8, 8, "done")]


def test_the_cell_that_lacks_the_fewest_quiet_processes_is_repeated_first():
    class Restless(Paper):
        """All of the first cell's processes are noisy, of the second's only the last."""

        def ask(self, message):
            if message["what"] == "race" and message["cell"]["width"] == SECOND.width and message["process"] < 2:
                return Paper().ask(message)
            return super().ask(message)

    _, records = measuring.measure(TWO, nursery=(paper := Restless(noisy={FIRST.id: 99, SECOND.id: 1})))
    asked = [(message["cell"]["width"], message["process"]) for message in paper.asked[1:]]
    repeated = asked[4:]  # those of the second cell's quiet processes were asked of another
    assert repeated == [(SECOND.width, 2), *[(FIRST.width, process) for _ in range(3) for process in range(3)]]
    assert sum(each.noisy and each.last for each in records) == 3


def test_a_spell_of_noise_does_not_use_up_the_repetitions_of_one_process():
    class Spell(Paper):
        """The last two processes are noisy, and what is asked next."""

        def ask(self, message):
            self.noisy = {FIRST.id: 1, SECOND.id: 1} if 5 <= len(self.asked) <= 7 else {}
            return super().ask(message)

    _, records = measuring.measure(TWO, nursery=(paper := Spell()))
    asked = [(message["cell"]["width"], message["process"]) for message in paper.asked[7:]]
    assert asked == [(FIRST.width, 2), (SECOND.width, 2), (FIRST.width, 2)]
    assert not any(each.noisy and each.last for each in records)


def test_what_stays_noisy_is_marked_and_kept():
    _, records = measuring.measure(TWO, nursery=Paper(noisy={SECOND.id: 99}))
    its = [each for each in records if each.cell == SECOND]
    assert [(each.process, each.attempt, each.last) for each in its] == [
        (process, attempt, attempt == 3) for process in range(3) for attempt in range(4)
    ]
    assert all(each.noisy and each.bursts for each in its)


def test_when_patience_is_over_nothing_more_is_repeated_and_all_cells_have_had_their_turns():
    times = iter([0.0, TWO.patience, TWO.patience + 1, *[1e9] * 99])  # the start, then before every repetition
    _, records = measuring.measure(TWO, nursery=Paper(noisy={SECOND.id: 99}), clock=lambda: next(times))
    assert [(each.process, each.attempt) for each in records if each.cell == SECOND] == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert len([each for each in records if each.cell == FIRST]) == 3


def test_a_repetition_that_gives_nothing_leaves_the_noisy_value_and_is_still_reported():
    class FailsLater(Paper):
        def ask(self, message):
            if message["what"] == "race" and self.noisy.get(FIRST.id) == 98 and message["cell"]["width"] == FIRST.width:
                raise ProcessError("gone")
            return super().ask(message)

    one = replace(TWO, processes=1)
    _, records = measuring.measure(one, nursery=FailsLater(noisy={FIRST.id: 99}))
    its = [(each.noisy, each.last, each.failed) for each in records if each.cell == FIRST]
    assert its == [(True, True, ""), (False, False, "gone")]


def test_what_does_not_fit_is_skipped_once_with_its_reason():
    paper = Paper(skipped=[FIRST.id])
    _, records = measuring.measure(TWO, nursery=paper)
    (skipped,) = (each for each in records if each.cell == FIRST)
    assert "needs about 9 GiB" in skipped.skipped
    assert len(records) == 1 + 3


def test_a_process_that_dies_fails_alone_and_is_tried_again_next_time():
    _, records = measuring.measure(TWO, nursery=Paper(broken=[FIRST.id]))
    its = [each for each in records if each.cell == FIRST]
    assert [each.failed for each in its] == ["process ended with exit code 1"] * 3
    assert sum(bool(each.bursts) for each in records) == 3


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, r"as Linux does where memory is short; the cell needs about 0\.00 GiB"),
        (signal.SIGALRM, "took longer than the limit of 120 s a process"),
    ],
)
def test_a_process_killed_for_memory_or_time_is_skipped_with_its_reason(number, reason):
    paper = Paper(killed={FIRST.id: number})
    _, records = measuring.measure(TWO, nursery=paper)
    (skipped,) = (each for each in records if each.cell == FIRST)
    assert re.search(reason, skipped.skipped)
    assert sum(bool(each.bursts) for each in records) == 3
    assert all(message["limit"] >= 120 for message in paper.asked)


def test_without_ceilings_there_is_no_study():
    class Dead(Paper):
        def ask(self, message):
            raise ProcessError("no device")

    with pytest.raises(ProcessError, match="no device"):
        measuring.measure(TWO, nursery=Dead())


def test_progress_is_told_before_every_process():
    told = []
    measuring.measure(TWO, lambda *each: told.append(each), Paper())
    assert [done for done, *_ in told] == list(range(8))
    assert {of for _, of, _ in told} == {7}
