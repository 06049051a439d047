"""Arrays of any library, through the Array API that all of them speak."""

from __future__ import annotations

from typing import Any

import array_api_compat

Array = Any  # an array of the backend in use


def namespace(*arrays: Array) -> Any:
    """The Array API functions of the arrays' own library."""
    return array_api_compat.array_namespace(*(array for array in arrays if array is not None))
