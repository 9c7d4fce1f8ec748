"""The NVTabular workflows: users, items and interactions, from raw columns to what the models read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import dask

dask.config.set({"dataframe.query-planning": False})  # Merlin 23.8 needs the legacy dataframe

import numpy as np  # noqa: E402
import nvtabular as nvt  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from merlin.core.dispatch import is_list_dtype, list_val_dtype  # noqa: E402
from merlin.dag import Graph, Node  # noqa: E402
from merlin.dag.executors import LocalExecutor  # noqa: E402
from merlin.schema import Schema, Tags  # noqa: E402
from nvtabular import ops  # noqa: E402

from features.artifact import Artifact  # noqa: E402
from features.logs import FeatureColumns  # noqa: E402
from features.ops.calendar import Calendar  # noqa: E402
from features.ops.known_categories import KnownCategories  # noqa: E402
from features.ops.pad_list import PadList  # noqa: E402
from features.schema import list_length  # noqa: E402

# As-of columns that grow without bound: log(1 + x), then mean 0 and deviation 1 over the training interactions.
USER_COUNTS = ("user_num_events",)
CONTEXT_COUNTS = ("user_recency_days", "item_num_events", "item_num_recent_events", "item_age_days")
KEYS = ("user_row", "item_row", "timestamp")
HISTORY = "history"
ROWS_PER_PART = 250_000
"""Rows that NVTabular holds in memory at a time."""
SMALLEST_SPREAD = 1e-7
"""Deviation, relative to the mean, below which a column counts as constant: NVTabular's sums cannot tell."""


def entity_workflow(
    entity: str, columns: FeatureColumns, vocabulary: Mapping[str, np.ndarray], list_max_length: int, storage: Path
) -> nvt.Workflow:
    """Workflow for the attributes of users or items.

    Args:
        entity: "user" or "item"; the id column is `{entity}_id` (raw: the row number), features are `{entity}_{name}`.
        vocabulary: column -> values that get an id of their own, in id order; any other value is encoded as unseen.
            For `{entity}_id` and every categorical and list feature.
        list_max_length: elements kept of each list feature.
        storage: folder for the vocabularies until the workflow is saved; every workflow needs one of its own.
    """
    tag = {"user": Tags.USER, "item": Tags.ITEM}[entity]
    id_tag = {"user": Tags.USER_ID, "item": Tags.ITEM_ID}[entity]

    def encoded(names: Sequence[str]) -> Node:
        return list(names) >> KnownCategories({name: vocabulary[name] for name in names}, storage)

    nodes = encoded([f"{entity}_id"]) >> ops.AddTags([tag, id_tag])
    if columns.categorical:
        nodes = nodes + (encoded(_prefixed(entity, columns.categorical)) >> ops.AddTags([tag]))
    if columns.continuous:
        filled = _prefixed(entity, columns.continuous) >> ops.FillMedian()
        nodes = nodes + (filled >> ops.Normalize(out_dtype=np.float32) >> ops.AddTags([tag]))
    for name in _prefixed(entity, columns.lists):
        nodes = nodes + (encoded([name]) >> PadList(list_max_length) >> ops.AddTags([tag]))
    return nvt.Workflow(nodes)


def interaction_workflow(item_vocabulary: np.ndarray, history_length: int, storage: Path) -> nvt.Workflow:
    """Workflow for what depends on the moment: history, activity, popularity, calendar.

    The history shares the item ids' vocabulary, so that one embedding table serves both.
    """
    history = [HISTORY] >> KnownCategories({HISTORY: item_vocabulary}, storage) >> PadList(history_length)
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


def fit(workflow: nvt.Workflow, dataset: nvt.Dataset) -> nvt.Workflow:
    """Fit a workflow, part by part.

    A continuous attribute that is null in every row, or equal in all, says nothing: it becomes 0 for everybody.
    """
    stock = workflow.executor._executor
    workflow.executor._executor = _FittingExecutor(stock.target_format)
    try:
        with np.errstate(invalid="ignore"):  # the variance of a constant column may come out below 0
            workflow.fit(dataset)
    finally:
        workflow.executor._executor = stock
    for node in Graph.get_nodes_by_op_type([workflow.output_node], ops.FillMedian):
        for name, median in node.op.medians.items():
            normalize = _normalize_of(workflow, name)
            if np.isnan(median):
                node.op.medians[name] = normalize.means[name] = 0.0
            if not normalize.stds[name] > SMALLEST_SPREAD * abs(normalize.means[name]):
                normalize.stds[name] = float("inf")
    return workflow


def load_workflow(etl: Artifact, name: str) -> nvt.Workflow:
    """A fitted workflow of an opened etl artifact, whose hashes were checked: the file is a pickle."""
    return nvt.Workflow.load(str(etl.file(f"workflows/{name}/workflow.pkl").parent))


def transform(workflow: nvt.Workflow, table: pa.Table) -> pa.Table:
    """Run a fitted workflow over a table; row order is kept."""
    if not len(table):  # Merlin cannot open a dataset without rows
        return _arrow(pd.DataFrame(columns=workflow.output_schema.column_names), workflow.output_schema)
    with as_dataset([table]) as dataset:
        return pa.concat_tables(transformed_parts(workflow, dataset))


def transformed_parts(workflow: nvt.Workflow, dataset: nvt.Dataset) -> Iterator[pa.Table]:
    """Run a fitted workflow over a dataset, one part after the other; row order is kept."""
    for part in workflow.transform(dataset).to_ddf().partitions:
        yield _arrow(part.compute(scheduler="synchronous"), workflow.output_schema)


@contextlib.contextmanager
def as_dataset(tables: Iterable[pa.Table]) -> Iterator[nvt.Dataset]:
    """A Merlin dataset over parquet, so that NVTabular holds one part in memory at a time; needs a row."""
    with tempfile.TemporaryDirectory(prefix="cascade-rows-") as folder:
        starts = ((table, begin) for table in tables for begin in range(0, len(table), ROWS_PER_PART))
        for number, (table, begin) in enumerate(starts):
            pq.write_table(table.slice(begin, ROWS_PER_PART), Path(folder) / f"part_{number:06d}.parquet")
        yield nvt.Dataset(folder, engine="parquet", cpu=True)


class _FittingExecutor(LocalExecutor):
    """Merlin's; the stock one reads types from the rows, and fails on a list column whose rows are all empty."""

    def __init__(self, target_format) -> None:
        super().__init__()
        self.target_format = target_format

    def _build_schema_from_data(self, output_data, col_name, output_col_schema):
        column = output_data[col_name]
        if is_list_dtype(column) and list_val_dtype(column) is None:
            return output_col_schema
        return super()._build_schema_from_data(output_data, col_name, output_col_schema)


def _prefixed(entity: str, names: Sequence[str]) -> list[str]:
    return [f"{entity}_{name}" for name in names]


def _normalize_of(workflow: nvt.Workflow, name: str) -> ops.Normalize:
    nodes = Graph.get_nodes_by_op_type([workflow.output_node], ops.Normalize)
    return next(node.op for node in nodes if name in node.op.means)


def _arrow(frame: pd.DataFrame, schema: Schema) -> pa.Table:
    columns = {}
    for column in schema:
        values = frame[column.name]
        dtype = column.dtype.to_numpy
        if length := list_length(column):
            flat = np.concatenate(values.to_list()) if len(values) else np.empty(0, dtype)
            columns[column.name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(dtype, copy=False)), length)
        else:
            columns[column.name] = pa.array(values.to_numpy().astype(dtype, copy=False))
    return pa.table(columns)
