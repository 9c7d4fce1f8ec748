"""Batches: every example once, in an order that only the seed and the epoch decide, joined with the right rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from features.artifact import Artifact
from features.batches import Batches, FeatureTables


@pytest.fixture(scope="module")
def tables(etl: Artifact) -> FeatureTables:
    return FeatureTables(etl)


@pytest.fixture
def batches(etl: Artifact, tables: FeatureTables) -> Batches:
    return Batches([etl.path / "examples/train", etl.path / "examples/valid"], tables, 256, seed=3)


def whole(epoch) -> dict[str, torch.Tensor]:
    parts = list(epoch)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def keys(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    return list(zip(*(batch[name].tolist() for name in ("user_row", "item_row", "timestamp")), strict=True))


def test_an_epoch_has_every_example_once(batches: Batches):
    shuffled, in_order = whole(batches.epoch(0)), whole(batches.in_order())
    assert len(shuffled["user_row"]) == batches.num_rows
    assert keys(shuffled) != keys(in_order)
    assert sorted(keys(shuffled)) == sorted(keys(in_order))


def test_the_order_depends_on_seed_and_epoch_only(etl: Artifact, tables: FeatureTables, batches: Batches):
    again = Batches([etl.path / "examples/train", etl.path / "examples/valid"], tables, 256, seed=3)
    list(again.epoch(0))
    torch.rand(5)
    assert keys(whole(again.epoch(1))) == keys(whole(batches.epoch(1)))
    assert keys(whole(batches.epoch(1))) != keys(whole(batches.epoch(2)))


def test_batches_have_the_size_asked_for_and_the_last_one_the_rest(batches: Batches):
    sizes = [len(batch["user_row"]) for batch in batches.epoch(0)]
    assert set(sizes[:-1]) == {256}
    assert sum(sizes) == batches.num_rows


def test_rows_carry_their_own_lists_and_their_users_and_items_features(etl, tables: FeatureTables, batches: Batches):
    batch = next(batches.epoch(0))
    for name, column in tables.items.items():
        assert torch.equal(batch[name], column[batch["item_row"]]), name
    assert torch.equal(batch["user_id"], tables.users["user_id"][batch["user_row"]])
    names = ("train", "valid")
    files = pa.concat_tables([pq.read_table(etl.path / f"examples/{name}") for name in names]).to_pylist()
    of_key = {(row["user_row"], row["item_row"], row["timestamp"]): row["history"] for row in files}
    assert batch["history"].tolist() == [of_key[key] for key in keys(batch)]


def test_state_of_a_moment_is_never_taken_from_the_users_table(batches: Batches, tables: FeatureTables):
    assert not {"history", "user_num_events"} & set(tables.user_features(torch.tensor([0])))


def test_replaced_columns_stand_in_for_the_files_own(etl: Artifact, tables: FeatureTables, batches: Batches):
    number = torch.arange(batches.num_rows)
    paths = [etl.path / "examples/train", etl.path / "examples/valid"]
    changed = Batches(paths, tables, 256, 3, replaced={"user_num_events": number, "number": number})
    batch, original = whole(changed.epoch(0)), whole(batches.in_order())
    assert torch.equal(batch["user_num_events"], batch["number"])
    assert torch.equal(batch["item_row"], original["item_row"][batch["number"]])
    assert torch.equal(changed.column("user_num_events"), number)


def test_an_example_may_hold_a_list_of_items(tables: FeatureTables, tmp_path):
    rows = pa.FixedSizeListArray.from_arrays(pa.array([0, 1, 2, 3, 4, 5]), 3)
    pq.write_table(pa.table({"user_row": [4, 7], "item_row": rows}), tmp_path / "lists.parquet")
    batch = next(Batches([tmp_path / "lists.parquet"], tables, 2, 0).in_order())
    assert batch["item_row"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(batch["item_id"], tables.items["item_id"][:6].reshape(2, 3))
