"""Feature schema: Merlin's, with the tags by which every later stage finds its columns.

A feature is `Tags.USER` (known of the user: attributes, history, activity), `Tags.ITEM` (an attribute of the item) or
`Tags.CONTEXT` (of the moment, or of the item at that moment); and `Tags.CATEGORICAL` or `Tags.CONTINUOUS`. Lists have a
fixed length and are padded with 0. Encoded categories follow NVTabular: 0 padding, 1 null, 2 unseen, 3 and up known.
"""

from __future__ import annotations

import json
from pathlib import Path

from merlin.schema import ColumnSchema, Schema, Tags
from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

PADDING, NULL, UNSEEN, FIRST_KNOWN = 0, 1, 2, 3


def save_schema(schema: Schema, path: Path) -> None:
    """Write as TensorFlow-metadata JSON, the format Merlin's own tools exchange."""
    document = json.loads(TensorflowMetadata.from_merlin_schema(schema).to_json())
    for feature in document["feature"]:
        for metadata in feature["annotation"]["extraMetadata"]:
            metadata.pop("cat_path", None)  # where the vocabulary stood while the workflow was fitted: gone by now
        feature["annotation"]["tag"].sort()  # Merlin keeps tags in a set: their order changes from process to process
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def load_schema(path: Path) -> Schema:
    return TensorflowMetadata.from_json(path.read_text()).to_merlin_schema()


def select(schema: Schema, *tags: Tags) -> Schema:
    """The columns that carry all of the tags, in schema order."""
    return Schema([column for column in schema if all(tag in column.tags for tag in tags)])


def num_categories(column: ColumnSchema) -> int:
    """Rows that an embedding table for this column needs, the reserved ids included."""
    domain = column.int_domain
    if domain is None:
        raise ValueError(f"column {column.name!r} has no integer domain: it is not an encoded category")
    return int(domain.max) + 1


def list_length(column: ColumnSchema) -> int | None:
    """Elements per row of a list column, None for a plain one."""
    if not column.is_list:
        return None
    return int(column.shape.dims[1].max)
