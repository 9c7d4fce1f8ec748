"""The NVTabular workflows: users, items and interactions, from raw columns to what the models read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dask

dask.config.set({"dataframe.query-planning": False})  # Merlin 23.8 needs the legacy dataframe

import numpy as np  # noqa: E402
import nvtabular as nvt  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from merlin.dag import Graph  # noqa: E402
from merlin.schema import Schema, Tags  # noqa: E402
from nvtabular import ops  # noqa: E402

from features.artifact import Artifact  # noqa: E402
from features.logs import FeatureColumns  # noqa: E402
from features.ops.calendar import Calendar  # noqa: E402
from features.ops.pad_list import PadList  # noqa: E402

# As-of columns that grow without bound: log(1 + x), then mean 0 and deviation 1 over the training interactions.
USER_COUNTS = ("user_num_events",)
CONTEXT_COUNTS = ("user_recency_days", "item_num_events", "item_num_recent_events", "item_age_days")
KEYS = ("user_row", "item_row", "timestamp")
HISTORY = "history"


def entity_workflow(
    entity: str, columns: FeatureColumns, vocabulary: np.ndarray, list_max_length: int, storage: Path
) -> nvt.Workflow:
    """Workflow for the attributes of users or items.

    Args:
        entity: "user" or "item"; the id column is `{entity}_id` (raw: the row number), features are `{entity}_{name}`.
        vocabulary: rows that get an id of their own, in id order; any other row is encoded as unseen.
        list_max_length: elements kept of each list feature.
        storage: folder for the vocabularies until the workflow is saved; every workflow needs one of its own.
    """
    tag = {"user": Tags.USER, "item": Tags.ITEM}[entity]
    id_tag = {"user": Tags.USER_ID, "item": Tags.ITEM_ID}[entity]
    id_column = f"{entity}_id"
    nodes = [id_column] >> _known_ids(id_column, vocabulary, storage) >> ops.AddTags([tag, id_tag])
    if columns.categorical:
        nodes = nodes + (
            _prefixed(entity, columns.categorical) >> ops.Categorify(out_path=str(storage)) >> ops.AddTags([tag])
        )
    if columns.continuous:
        filled = _prefixed(entity, columns.continuous) >> ops.FillMedian()
        nodes = nodes + (filled >> ops.Normalize(out_dtype=np.float32) >> ops.AddTags([tag]))
    for name in _prefixed(entity, columns.lists):
        encoded = [name] >> ops.Categorify(out_path=str(storage)) >> PadList(list_max_length)
        nodes = nodes + (encoded >> ops.AddTags([tag]))
    return nvt.Workflow(nodes)


def interaction_workflow(item_vocabulary: np.ndarray, history_length: int, storage: Path) -> nvt.Workflow:
    """Workflow for what depends on the moment: history, activity, popularity, calendar.

    The history shares the item ids' vocabulary, so that one embedding table serves both.
    """
    history = [HISTORY] >> _known_ids(HISTORY, item_vocabulary, storage) >> PadList(history_length)
    history = history >> ops.AddTags([Tags.USER, Tags.SEQUENCE])
    user_counts = list(USER_COUNTS) >> ops.LogOp() >> ops.Normalize(out_dtype=np.float32) >> ops.AddTags([Tags.USER])
    context = list(CONTEXT_COUNTS) >> ops.LogOp() >> ops.Normalize(out_dtype=np.float32)
    context = context >> ops.AddTags([Tags.CONTEXT])
    return nvt.Workflow(list(KEYS) + history + user_counts + context + (["timestamp"] >> Calendar()))


def feature_schema(workflows: Sequence[nvt.Workflow]) -> Schema:
    """The features of all workflows as one schema; history and item_id share one domain."""
    columns = {column.name: column for workflow in workflows for column in workflow.output_schema}
    for key in KEYS:
        columns.pop(key, None)
    if HISTORY in columns:
        domain = columns["item_id"].properties["domain"]
        columns[HISTORY] = columns[HISTORY].with_properties({"domain": domain})
    return Schema(list(columns.values()))


def normalization(workflow: nvt.Workflow) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each normalised column, for the request path, which cannot afford a workflow."""
    found: dict[str, tuple[float, float]] = {}
    for node in Graph.get_nodes_by_op_type([workflow.output_node], ops.Normalize):
        found |= {name: (float(node.op.means[name]), float(node.op.stds[name])) for name in node.op.means}
    return found


def normalized_log(count: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """What `LogOp >> Normalize` makes of a count, for the request path; a test holds it to the workflow."""
    logged = np.log(count.astype(np.float32) + 1)
    return ((logged - mean) / deviation if deviation > 0 else logged - mean).astype(np.float32)


def fit(workflow: nvt.Workflow, table: pa.Table) -> nvt.Workflow:
    """Fit a workflow on a table, part by part."""
    with as_dataset(table) as dataset:
        return workflow.fit(dataset)


def load_workflow(etl: Artifact, name: str) -> nvt.Workflow:
    """A fitted workflow of an opened etl artifact, whose hashes were checked: the file is a pickle."""
    return nvt.Workflow.load(str(etl.file(f"workflows/{name}/workflow.pkl").parent))


def transform(workflow: nvt.Workflow, table: pa.Table) -> pa.Table:
    """Run a fitted workflow over a table, row group by row group; row order is kept."""
    with as_dataset(table) as dataset:
        parts = workflow.transform(dataset).to_ddf().partitions
        return pa.concat_tables([_arrow(part.compute(scheduler="synchronous"), workflow) for part in parts])


@contextlib.contextmanager
def as_dataset(table: pa.Table, rows_per_part: int = 250_000) -> Iterator[nvt.Dataset]:
    """A Merlin dataset over parquet, so that NVTabular holds one part in memory at a time."""
    with tempfile.TemporaryDirectory(prefix="cascade-rows-") as folder:
        for part, begin in enumerate(range(0, max(len(table), 1), rows_per_part)):
            pq.write_table(table.slice(begin, rows_per_part), Path(folder) / f"part_{part:05d}.parquet")
        yield nvt.Dataset(folder, engine="parquet", cpu=True)


def _prefixed(entity: str, names: Sequence[str]) -> list[str]:
    return [f"{entity}_{name}" for name in names]


def _known_ids(column: str, vocabulary: np.ndarray, storage: Path) -> ops.Categorify:
    # Without out_path NVTabular writes a given vocabulary into the working directory, and loses it when saving.
    return ops.Categorify(vocabs={column: pd.Series(vocabulary)}, out_path=str(storage))


def _arrow(frame: pd.DataFrame, workflow: nvt.Workflow) -> pa.Table:
    columns = {}
    for column in workflow.output_schema:
        values = frame[column.name]
        if column.is_list:
            flat = np.concatenate(values.to_list()) if len(values) else np.empty(0, np.int64)
            columns[column.name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), len(flat) // max(len(values), 1))
        else:
            columns[column.name] = pa.array(values.to_numpy())
    return pa.table(columns)
