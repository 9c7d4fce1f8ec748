from collections.abc import Sequence

import dask.dataframe as dd
import pandas as pd
import pytest

from features.ops.partition_statistics import FAN_IN, PartitionStatistics


class _Order(PartitionStatistics):
    """The partitions' first values, and how deep each lies in the tree."""

    def _partial(self, col_selector: list[str], frame: pd.DataFrame) -> list:
        return [(int(frame[col_selector[0]].iloc[0]), 0)]

    def _merge(self, partials: Sequence[list]) -> list:
        assert len(partials) <= FAN_IN
        return [(value, depth + 1) for partial in partials for value, depth in partial]


@pytest.mark.parametrize(("num_partitions", "depth"), [(1, 1), (8, 1), (9, 2), (64, 2), (65, 3)])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_partitions_are_merged_in_order_in_a_tree(num_partitions: int, depth: int, scheduler: str) -> None:
    rows = dd.from_pandas(pd.DataFrame({"x": range(num_partitions)}), npartitions=num_partitions)
    merged = _Order().fit(["x"], rows).compute(scheduler=scheduler)
    assert merged == [(number, depth) for number in range(num_partitions)]
