from pathlib import Path

import numpy as np
import pytest
from merlin.schema import ColumnSchema, Schema, Tags

from features.artifact import Artifact
from features.schema import list_length, load_schema, num_categories, save_schema, select


def test_a_schema_is_read_as_it_was_written(etl: Artifact, tmp_path: Path) -> None:
    schema = load_schema(etl.file("schema.json"))
    save_schema(schema, tmp_path / "schema.json")
    again = load_schema(tmp_path / "schema.json")
    assert again.column_names == schema.column_names
    for ours, theirs in zip(schema, again, strict=True):
        assert set(ours.tags) == set(theirs.tags) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.int_domain == theirs.int_domain
    assert (tmp_path / "schema.json").read_text() == etl.file("schema.json").read_text()


def test_every_feature_belongs_to_one_side_and_is_of_one_kind(etl: Artifact) -> None:
    for column in load_schema(etl.file("schema.json")):
        assert sum(tag in column.tags for tag in (Tags.USER, Tags.ITEM, Tags.CONTEXT)) == 1, column.name
        assert sum(tag in column.tags for tag in (Tags.CATEGORICAL, Tags.CONTINUOUS)) == 1, column.name


def test_columns_are_selected_by_all_of_the_tags_in_schema_order(etl: Artifact) -> None:
    schema = load_schema(etl.file("schema.json"))
    assert select(schema, Tags.ITEM, Tags.ID).column_names == ["item_id"]
    assert "history" in select(schema, Tags.USER, Tags.CATEGORICAL).column_names
    assert select(schema, Tags.USER, Tags.ITEM).column_names == []
    assert select(schema).column_names == schema.column_names


def test_tags_that_stand_in_another_order_give_the_same_file(tmp_path: Path) -> None:
    texts = set()
    for tags in ([Tags.USER, Tags.CATEGORICAL], [Tags.CATEGORICAL, Tags.USER]):
        save_schema(Schema([ColumnSchema("x", dtype=np.int64, tags=tags)]), tmp_path / "schema.json")
        texts.add((tmp_path / "schema.json").read_text())
    assert len(texts) == 1


def test_a_plain_column_has_no_list_length_and_a_number_no_categories() -> None:
    column = ColumnSchema("x", dtype=np.float32)
    assert list_length(column) is None
    with pytest.raises(ValueError, match="'x' has no integer domain"):
        num_categories(column)
