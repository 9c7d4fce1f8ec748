"""Calendar: the hour of day and the day of week of a moment, as categories with a fixed domain."""

from __future__ import annotations

import numpy as np
from merlin.schema import ColumnSchema, Schema, Tags
from nvtabular.ops import Operator

NUM_HOURS, NUM_WEEKDAYS = 24, 7


def hour_and_weekday(timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hour 1..24 and weekday 1..7 (1 is Monday), UTC; 0 stays free for padding.

    Args:
        timestamp: Unix seconds, of any shape.
    """
    hour = (timestamp // 3_600) % NUM_HOURS + 1
    weekday = (timestamp // 86_400 + 3) % NUM_WEEKDAYS + 1
    return hour.astype(np.int64), weekday.astype(np.int64)


class Calendar(Operator):
    """Replaces `timestamp` by `hour` and `weekday`."""

    def transform(self, col_selector, df):
        hour, weekday = hour_and_weekday(df["timestamp"].to_numpy())
        return type(df)({"hour": hour, "weekday": weekday}, index=df.index)

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        return Schema([_category("hour", NUM_HOURS), _category("weekday", NUM_WEEKDAYS)])


def _category(name: str, num_values: int) -> ColumnSchema:
    domain = {"min": 0, "max": num_values, "name": name}
    return ColumnSchema(name, dtype=np.int64, tags=[Tags.CATEGORICAL, Tags.CONTEXT], properties={"domain": domain})
