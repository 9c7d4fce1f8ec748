"""Parameters of a Triton request, as `Request.of` takes them."""

from __future__ import annotations

import contextlib
from typing import Any

from ensemble.request import RequestError
from ensemble.triton_config import PARAMETERS


def checked_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those of a request, with numbers where clients sent them as text.

    Raises: RequestError if there is one that nobody reads.
    """
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise RequestError(f"request parameter {unknown[0]!r} is not known; there are {', '.join(PARAMETERS)}")
    return {name: _as_number(value) for name, value in parameters.items()}


def _as_number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value
