"""What the rows say in plain sentences: where looping pays on this machine, the control, and our own path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eltbench.throughput.summary import PAYS, SPILLED, UNIT, summary

PLACE = ["batch_size", "tokens", "precision", "block", "backend", "mode"]
AIM = {"cpu": 0.95, "cuda": 0.90}  # of a whole sampler's time, in the bare loops


def sentences(rows: pd.DataFrame) -> list[str]:
    """Where looping pays, by batch, tokens, precision, block and mode; then the control and the loops' own share."""
    table = summary(rows)
    if table.empty:
        return []
    return [*_where_it_pays(table), *_controls(table), *_shares(table)]


def _where_it_pays(table: pd.DataFrame) -> Iterator[str]:
    calls = table[(table["metric"] == "throughput_ratio") & (table["measure"] == "call") & table["mean"].notna()]
    calls = calls[calls["cache_bytes"].notna()]
    calls = calls[calls["unique_bytes"] > SPILLED * calls["cache_bytes"]]
    for place, here in calls.groupby(PLACE, sort=False):
        batch, tokens, precision, block, backend, mode = place
        where = f"at batch {batch} with {tokens} tokens ({block}, {precision}, {backend} {mode})"
        quiet = here[here["noisy"] == 0].sort_values("block_bytes")
        if len(quiet):
            yield _sentence(where, quiet, len(here) - len(quiet))
        else:
            yield f"nothing can be said {where}: {len(here)} of {len(here)} cells are noisy"


def _sentence(where: str, here: pd.DataFrame, noisy: int) -> str:
    """One place's sentence; `here` in ascending order of block bytes."""
    sizes, ratios = here["block_bytes"].to_numpy(float), here["mean"].to_numpy(float)
    cache = float(here["cache_bytes"].iloc[0])
    gains = f"{ratios.min():.2f}× to {ratios.max():.2f}×" if len(ratios) > 1 else f"{ratios[0]:.2f}×"
    measured = f"measured: {gains} with blocks of {_megabytes(sizes)}; the last cache is {cache / UNIT:.3g} MB"
    unsure = int(((here["low"] <= PAYS) & (here["high"] >= PAYS)).sum())
    if unsure:
        measured += f"; the intervals of {unsure} of {len(here)} cells hold {PAYS:.2f}"
    if noisy:
        measured += f"; noisy and left out: {noisy}"
    return f"looping {_pays(sizes, ratios, cache)} {where}, where the unique layers exceed twice the cache ({measured})"


def _pays(sizes: np.ndarray, ratios: np.ndarray, cache: float) -> str:
    found = crossings(sizes, ratios)
    at = " and ".join(f"{size / UNIT:.3g} MB" for size, _ in found)
    if len(sizes) == 1:
        return f"{'pays' if ratios[0] > PAYS else 'does not pay'} at the one block measured"
    if not found:
        every = "pays at every block measured" if ratios[0] > PAYS else "does not pay at any block measured"
        return f"{every} (no crossing within what was measured)"
    if len(found) > 1:
        return f"pays at some blocks and not at others, with no one bound: the ratio crosses {PAYS:.2f} at about {at}"
    size, falls = found[0]
    return f"pays {'below' if falls else 'above'} about {at} of block weights ({size / cache:.2f} of the last cache)"


def _controls(table: pd.DataFrame) -> Iterator[str]:
    for _, line in table[(table["metric"] == "self_ratio") & table["mean"].notna()].iterrows():
        holds = line["low"] <= 1 <= line["high"]
        verdict = "which holds 1, as it should" if holds else "which does not hold 1: no difference of that size counts"
        yield f"control: a network over its own copy takes {_interval(line)} of its time, {verdict} ({line['name']})"


def _shares(table: pd.DataFrame) -> Iterator[str]:
    for _, line in table[(table["metric"] == "block_share") & table["mean"].notna()].iterrows():
        aim = AIM["cuda" if str(line["device"]).startswith("cuda") else "cpu"]
        yield f"the bare loops take {_interval(line)} of the whole sampler's time, aim {aim:.2f} ({line['name']})"


def _interval(line: pd.Series) -> str:
    return f"{line['mean']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"


def _megabytes(sizes: np.ndarray) -> str:
    low, high = (f"{size / UNIT:.3g}" for size in (sizes.min(), sizes.max()))
    return f"{low} MB" if low == high else f"{low} to {high} MB"


def crossings(sizes: np.ndarray, ratios: np.ndarray) -> list[tuple[float, bool]]:
    """Every block size at which the ratio crosses PAYS and whether it falls there, from sizes in ascending order.

    Between two sizes the ratio is taken to be linear in the logarithm of the size. Empty where it never crosses.
    """
    found = []
    for place in range(len(sizes) - 1):
        (low, high), (before, after) = sizes[place : place + 2], ratios[place : place + 2]
        if (before > PAYS) != (after > PAYS):
            share = (before - PAYS) / (before - after)
            found.append((float(low * (high / low) ** share), bool(before > PAYS)))
    return found
