"""Features made again offline are those that the store serves."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.pipeline import Pipeline
from ensemble.request import Request
from pipelines.monitor.later_events import LaterEvent, LaterEventsError, read_later_events
from pipelines.monitor.offline_features import OfflineFeatures


@pytest.fixture(scope="module")
def pipeline(small_run: Path) -> Pipeline:
    return Pipeline.load(small_run / "export" / "repository" / "cascade" / "1")


def raw_ids(run: Path, name: str) -> list[str]:
    return pq.read_table(run / "etl" / "raw" / f"{name}s.parquet")[f"{name}_id"].cast(pa.string()).to_pylist()


def test_every_user_has_the_features_of_the_store(small_run, pipeline):
    offline = OfflineFeatures(small_run)
    users = [*raw_ids(small_run, "user"), "nobody"]
    made = offline.at(users, np.full(len(users), offline.as_of))
    served = pipeline.columns(Request.of(users))
    assert set(made) == set(pipeline.feature_names)
    for name, values in made.items():
        np.testing.assert_array_equal(values, served[name], err_msg=name)


def test_later_events_count_from_the_second_after_them_and_once(small_run):
    user, item = raw_ids(small_run, "user")[1], raw_ids(small_run, "item")[3]
    before = OfflineFeatures(small_run)
    event = LaterEvent(user, item, before.as_of + 100, {})
    after = OfflineFeatures(small_run, [event, event, LaterEvent(user, "unknown item", before.as_of + 50, {})])
    moments = np.array([100, 101]) + before.as_of
    known = before.at([user], moments[:1])
    found = after.at([user, user], moments)
    for name, values in known.items():
        np.testing.assert_array_equal(found[name][0], values[0], err_msg=name)
    encoded = pq.read_table(small_run / "etl" / "items.parquet")["item_id"][3].as_py()
    assert found["history"][1, 0] == encoded
    np.testing.assert_array_equal(found["history"][1, 1:], known["history"][0, :-1])
    assert found["last_timestamp"][1] == before.as_of + 100
    assert found["user_num_events"][1] > found["user_num_events"][0]


def test_an_event_that_the_log_has_is_no_second_one(small_run):
    events = pq.read_table(small_run / "etl" / "events.parquet")
    user, item, moment = (events[name][0].as_py() for name in ("user_row", "item_row", "timestamp"))
    users = raw_ids(small_run, "user")
    again = LaterEvent(users[user], raw_ids(small_run, "item")[item], moment, {})
    offline = [OfflineFeatures(small_run, later) for later in ((), [again])]
    found = [one.at([users[user]], np.array([one.as_of])) for one in offline]
    assert found[0]["user_num_events"] == found[1]["user_num_events"]


def test_a_user_whom_only_events_know_has_a_history_and_no_attributes(small_run):
    item = raw_ids(small_run, "item")[0]
    as_of = OfflineFeatures(small_run).as_of
    offline = OfflineFeatures(small_run, [LaterEvent("a new user", item, as_of + 10, {})])
    found = offline.at(["a new user", "a new user", "nobody"], as_of + np.array([10, 11, 11]))
    assert (found["history"] > 0).sum(1).tolist() == [0, 1, 0]
    assert found["user_id"].tolist() == [2, 2, 2] and found["user_club_member_status"].tolist() == [2, 2, 2]


def test_users_as_they_are_now_take_the_place_of_the_raw_table(small_run):
    raw = pq.read_table(small_run / "etl" / "raw" / "users.parquet")
    older = raw.set_column(raw.schema.get_field_index("age"), "age", pa.array([50.0] * len(raw)))
    user = raw_ids(small_run, "user")[0]
    found = [
        OfflineFeatures(small_run, (), users).at([user], np.array([2_000_000_000]))["user_age"][0]
        for users in (None, older.take(pa.array(range(len(raw) - 1, -1, -1))))
    ]
    assert found[1] > found[0] and raw["age"][0].as_py() < 50


def test_a_missing_file_of_events_is_named(tmp_path):
    with pytest.raises(LaterEventsError, match="there is no such file; --events names what the users did"):
        read_later_events(tmp_path / "none.csv")
    (tmp_path / "events.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(LaterEventsError, match="cannot be read as a journal"):
        read_later_events(tmp_path / "events.db")
