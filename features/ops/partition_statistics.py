"""PartitionStatistics: how our operators gather statistics, part by part and then in a tree of a fixed shape.

The shape depends on the number of partitions alone, so that threads, processes and clusters give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask import delayed

FAN_IN = 8
"""Statistics that one task merges."""


class PartitionStatistics:
    """The `fit` of a StatOperator that has `_partial(col_selector, frame)`, `_merge(partials)` and `fit_finalize`.

    `_partial` gives what one partition says, small and picklable; `_merge` makes one of several, in partition order.
    """

    def fit(self, col_selector, ddf) -> Any:
        """One delayed value: the merged statistics of all partitions, for `fit_finalize`."""
        partials = self._partials(col_selector, ddf)
        return delayed(self._merge)(partials)

    def _partials(self, col_selector, ddf) -> list[Any]:
        """At most FAN_IN delayed statistics that together cover all partitions, in their order."""
        partials = [delayed(self._partial)(col_selector, part) for part in ddf.to_delayed()]
        while len(partials) > FAN_IN:
            partials = [delayed(self._merge)(partials[i : i + FAN_IN]) for i in range(0, len(partials), FAN_IN)]
        return partials

    def _partial(self, col_selector, frame) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must say what one partition tells")

    def _merge(self, partials: Sequence[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must say how statistics are merged")
