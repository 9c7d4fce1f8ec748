from datetime import UTC, datetime

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from merlin.schema import Tags

from features.ops.calendar import Calendar, hour_and_weekday
from features.schema import num_categories


@given(st.integers(-(2**31), 2**33))
def test_hour_and_weekday_are_those_of_the_utc_calendar(timestamp: int) -> None:
    hour, weekday = hour_and_weekday(np.array([timestamp]))
    moment = datetime.fromtimestamp(timestamp, UTC)
    assert (hour[0], weekday[0]) == (moment.hour + 1, moment.isoweekday())


def test_any_shape_will_do() -> None:
    hour, weekday = hour_and_weekday(np.zeros((2, 3), np.int64))
    assert hour.shape == weekday.shape == (2, 3)
    assert hour_and_weekday(np.empty(0, np.int64))[0].dtype == np.int64


def test_every_value_is_in_the_domain_of_its_column() -> None:
    frame = pd.DataFrame({"timestamp": np.arange(0, 14 * 86_400, 1_800)}, index=np.arange(672)[::-1])
    found = Calendar().transform(ColumnSelector(["timestamp"]), frame)
    assert found.index.equals(frame.index)
    for column in Calendar().compute_output_schema(None, None):
        values = found[column.name]
        assert values.dtype == np.int64
        assert (values.min(), values.max()) == (1, num_categories(column) - 1)
        assert Tags.CATEGORICAL in column.tags and Tags.CONTEXT in column.tags
