"""Parquet files read whole, each page held against its checksum."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class DamagedError(ValueError):
    """A file that holds no readable table."""


def read_parquet(path: Path, names: Collection[str] | None = None) -> pa.Table:
    """A parquet file, or those of the named columns that it has, with every page held against its checksum.

    Raises DamagedError for a damaged file, OSError where the system cannot read it.
    """
    with path.open("rb") as opened:  # by Python, which says what the system refuses; Arrow takes that for damage
        try:
            with pq.ParquetFile(opened, page_checksum_verification=True) as file:
                here = file.schema_arrow.names
                return file.read(here if names is None else [name for name in here if name in names])
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedError(next(iter(str(error).splitlines()), type(error).__name__)) from None


def parquet_damage(path: Path) -> str:
    """What is wrong with a parquet file, found by reading all of it; empty where nothing is."""
    try:
        read_parquet(path)
    except DamagedError as error:
        return str(error)
    return ""
