"""User ids from files of either kind, in batches."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.user_list import UserList, UserListError

IDS = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1)


@given(ids=IDS, size=st.integers(1, 7))
def test_both_kinds_of_file_give_the_ids_in_order(ids, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    (folder / "users.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"user_id": ids}), folder / "users.parquet")
    for name in ("users.txt", "users.parquet"):
        users = UserList.open(folder / name)
        batches = list(users.batches(size))
        assert [one for batch in batches for one in batch] == ids and len(users) == len(ids)
        assert all(len(batch) == size for batch in batches[:-1])


def test_windows_files_and_empty_lines_are_read_as_they_are_meant(tmp_path):
    (tmp_path / "users").write_bytes(b"\xef\xbb\xbf0042\r\n\r\n 7 \r\n")
    assert list(UserList.open(tmp_path / "users").batches(10)) == [["0042", "7"]]


@pytest.mark.parametrize(
    "column",
    [pa.array([7, 42]), pa.array(["7", "42"], pa.large_string()), pa.array(["7", "42"]).dictionary_encode()],
    ids=["numbers", "large text", "categories"],
)
def test_ids_of_any_type_become_text(column, tmp_path):
    pq.write_table(pa.table({"user_id": column}), tmp_path / "users.parquet")
    assert list(UserList.open(tmp_path / "users.parquet").batches(10)) == [["7", "42"]]


def test_a_missing_id_is_an_error_that_names_the_row(tmp_path):
    pq.write_table(pa.table({"user_id": ["a", "b", "c", None]}), tmp_path / "users.parquet")
    with pytest.raises(UserListError, match="row 3 has no user_id"):
        list(UserList.open(tmp_path / "users.parquet").batches(2))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "there is no such file"),
        ("empty.txt", b"\n \n", "holds no user id"),
        ("latin.txt", b"caf\xe9\n", "is not UTF-8 text"),
        ("fake.parquet", b"a\nb\n", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_none_is_an_error_that_names_it(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserListError, match=f"{name}.*{said}"):
        UserList.open(tmp_path / name)


def test_a_parquet_file_without_the_column_or_with_dates_in_it_is_refused(tmp_path):
    pq.write_table(pa.table({"customer": ["a"]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"user_id": [1.5]}), tmp_path / "floats.parquet")
    with pytest.raises(UserListError, match="has no column user_id; its columns are customer"):
        UserList.open(tmp_path / "other.parquet")
    with pytest.raises(UserListError, match="must be text or whole numbers, got double"):
        UserList.open(tmp_path / "floats.parquet")
