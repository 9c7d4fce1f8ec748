"""Users come in the order of Feast's keys, a bounded batch at a time."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from hypothesis import given
from hypothesis import strategies as st

from features.store import user_rows
from features.store.repository import entity_key
from features.store.user_rows import UsersFile, entity_keys, one_ahead


@given(st.text(min_size=1, max_size=20), st.lists(st.text(max_size=300)))
def test_keys_are_feasts(entity, ids):
    expected = [serialize_entity_key(entity_key(entity, one), 3) for one in ids]
    assert entity_keys(entity, pa.array(ids, pa.string())).to_pylist() == expected


def test_numbers_are_ids_too():
    expected = [serialize_entity_key(entity_key("user", one), 3) for one in ("7", "-12")]
    assert entity_keys("user", pa.array([7, -12])).to_pylist() == expected


def test_every_user_comes_once_with_all_features_and_in_order(awkward_etl, monkeypatch):
    monkeypatch.setattr(user_rows, "USERS_PER_BATCH", 64)
    monkeypatch.setattr(user_rows, "USERS_PER_SORT", 100)
    path, names = awkward_etl.file("users.parquet"), ["num_events", "seen"]
    users = UsersFile(path, "user", names)
    batches = list(users.batches())
    assert users.schema.names == names and max(map(len, batches)) <= 64
    assert all(rows.keys.to_pylist() == sorted(rows.keys.to_pylist()) for rows in batches)
    table = pq.read_table(path)
    keys = entity_keys("user", table["raw_id"].combine_chunks()).to_pylist()
    came = [pair for rows in batches for pair in zip(rows.keys.to_pylist(), rows.features.to_pylist(), strict=True)]
    assert len(came) == users.num_users
    assert dict(came) == dict(zip(keys, table.select(names).to_pylist(), strict=True))


def test_one_ahead_changes_nothing_and_passes_errors_on():
    def broken():
        yield "a"
        raise OSError("gone")

    assert list(one_ahead(iter("abc"))) == list("abc")
    parts = one_ahead(broken())
    assert next(parts) == "a"
    with pytest.raises(OSError, match="gone"):
        next(parts)
