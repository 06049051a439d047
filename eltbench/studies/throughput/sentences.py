"""What the rows say in plain sentences: where looping pays on this machine, the control, and our own path."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from eltbench.studies.throughput.cells import counted
from eltbench.studies.throughput.summary import PAYS, SPILLED, UNIT, summary

PLACE = ["width", "effective_depth", "batch_size", "tokens", "precision", "block", "backend", "mode"]
AIM = {"cpu": 0.95, "cuda": 0.90}  # of a whole sampler's time, in the bare loops
WHERE = "where the unique layers exceed twice the cache"


def sentences(rows: pd.DataFrame) -> list[str]:
    """Where looping pays, by width, depth, batch, tokens, precision, block and mode; the control; the loops' share."""
    table = summary(rows)
    gone = table.loc[table["metric"].str.startswith(("skipped_", "failed_")), "name"]
    table = table.assign(lacking=table["name"].isin(gone))  # no value in some process
    return [*_where_it_pays(table), *_controls_and_shares(table)]


def _where_it_pays(table: pd.DataFrame) -> Iterator[str]:
    calls = table[(table["metric"] == "throughput_ratio") & (table["measure"] == "call") & table["mean"].notna()]
    if calls.empty:
        return
    known = calls[calls["cache_bytes"].notna()]
    spilled = known[known["unique_bytes"] > SPILLED * known["cache_bytes"]]
    why = ""
    if known.empty:
        why = "the system does not say how large its cache is"
    elif spilled.empty:
        largest, cache = _mebibytes(known["unique_bytes"].max()), _mebibytes(known["cache_bytes"].iloc[0])
        why = f"no layers ({largest} at most) exceed twice the cache ({cache})"
    if why:
        yield f"nothing can be said of where looping pays: {why}"
    for place, here in spilled.groupby(PLACE, sort=False):
        width, depth, batch, tokens, precision, block, backend, mode = place
        shape = f"{depth} layers of width {width} at batch {batch} with {counted(int(str(tokens)), 'token')}"
        where = f"{shape} ({block}, {precision}, {backend} {mode})"
        quiet = here[(here["noisy"] == 0) & ~here["lacking"]].sort_values("block_bytes")
        lacking = int(here["lacking"].sum())
        out = {"noisy": len(here) - len(quiet) - lacking, "without a value in a process": lacking}
        why = ", ".join(f"{number} of {counted(len(here), 'cell')} {what}" for what, number in out.items() if number)
        yield _sentence(where, quiet, why) if len(quiet) else f"nothing can be said of {where}: {why}"


def _sentence(where: str, here: pd.DataFrame, left_out: str) -> str:
    """One place's sentence; `here` in ascending order of block bytes; and why further cells are left out."""
    cache = float(here["cache_bytes"].iloc[0])
    gains = ", ".join(f"{line['mean']:.2f}× at {_mebibytes(line['block_bytes'])}" for _, line in here.iterrows())
    measured = f"measured: {gains}; the last cache is {_mebibytes(cache)}"
    unsure = int(((here["low"] <= PAYS) & (here["high"] >= PAYS)).sum())
    if unsure and len(here) > 1:
        measured += f"; the intervals of {unsure} of {len(here)} cells hold {PAYS:.2f}"
    if left_out:
        measured += f"; left out: {left_out}"
    return f"looping {_pays(here, cache)} for {where}, {WHERE} ({measured})"


def _pays(here: pd.DataFrame, cache: float) -> str:
    """In words, where the ratio exceeds PAYS, by the means; of blocks on one side of it, by their intervals."""
    sizes, ratios = here["block_bytes"].to_numpy(float), here["mean"].to_numpy(float)
    found = crossings(sizes, ratios)
    more = f"(by more than {100 * (PAYS - 1):.0f} %)"
    if not found:
        every = "the one block" if len(sizes) == 1 else "every block"
        if (here["low"] > PAYS).all():
            return f"pays {more} at {every} measured"
        if (here["high"] < PAYS).all():
            return f"does not pay {more} at {every.replace('every', 'any')} measured"
        seems = "seems to pay" if ratios[0] > PAYS else "does not seem to pay"
        return f"{seems} {more} at {every} measured, though an interval holds {PAYS:.2f}"
    if len(found) > 1:
        at = " and ".join(_mebibytes(each.size) for each in found)
        which = "at some blocks and not at others, with no one bound"
        return f"pays {more} {which}: the ratio crosses {PAYS:.2f} at about {at}"
    (one,) = found
    between = f"between the {_mebibytes(one.below)} and {_mebibytes(one.above)} measured"
    size = f"{'below' if one.falls else 'above'} about {_mebibytes(one.size)} of block weights"
    return f"pays {more} {size} ({one.size / cache:.2f} of the last cache, {between})"


def _controls_and_shares(table: pd.DataFrame) -> Iterator[str]:
    """What the control and the loops' share of a sampler come to; why nothing, where a process is noisy or missing."""
    for metric in ("self_ratio", "block_share"):
        for _, line in table[(table["metric"] == metric) & table["mean"].notna()].iterrows():
            low, high, name = line["low"], line["high"], metric.replace("_", " ")
            interval = f"{line['mean']:.3f} [{low:.3f}, {high:.3f}]"
            aim = AIM["cuda" if str(line["device"]).startswith("cuda") else "cpu"]
            if line["noisy"]:
                said = f"nothing can be said of the {name}: noisy in {line['noisy']} of {line['processes']}"
            elif line["lacking"]:
                said = f"nothing can be said of the {name}: without a value in a process"
            elif metric == "self_ratio":
                holds = "which holds 1, as it should"
                if not low <= 1 <= high:
                    holds = "which does not hold 1: no difference of that size counts"
                said = f"a copy of a network takes {interval} of that network's time, {holds}"
            else:
                met = "met" if low >= aim else "missed" if high < aim else "neither met nor missed for sure"
                said = f"the bare loops take {interval} of the whole sampler's time, aim {aim:.2f}: {met}"
            yield f"{'control: ' if metric == 'self_ratio' else ''}{said} ({line['name']})"


def _mebibytes(size: float) -> str:
    return f"{size / UNIT:.3g} MiB"


class Crossing(NamedTuple):
    """Where the ratio crosses PAYS: the block size, whether it falls there, and the sizes measured beside it."""

    size: float
    falls: bool
    below: float
    above: float


def crossings(sizes: np.ndarray, ratios: np.ndarray) -> list[Crossing]:
    """Every crossing of PAYS, from sizes in ascending order; empty where there is none.

    Between two sizes the ratio is taken to be linear in the logarithm of the size.
    """
    found = []
    measured = list(zip(sizes.tolist(), ratios.tolist(), strict=True))
    for (low, before), (high, after) in itertools.pairwise(measured):
        if (before > PAYS) != (after > PAYS):
            share = (before - PAYS) / (before - after)
            found.append(Crossing(low * (high / low) ** share, before > PAYS, low, high))
    return found
