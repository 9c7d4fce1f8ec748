"""The NVTabular workflows: users, items and interactions, from raw columns to what the models read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import nvtabular as nvt
import pyarrow as pa
from merlin.dag import Graph, Node
from merlin.schema import Schema, Tags
from nvtabular import ops

from features import executor
from features.artifact import Artifact
from features.as_of import HISTORY, HISTORY_GAP, KEYS, MOMENT_NUMBERS, USER_NUMBERS, AsOf
from features.cluster import Cluster
from features.history_gaps import NUM_GAPS
from features.logs import FeatureColumns
from features.ops.calendar import Calendar
from features.ops.categorify import Categorify
from features.ops.log_normalize import LogNormalize
from features.ops.pad_list import PadList
from features.ops.text_vector import TextVector
from features.partitions import ROWS_PER_PART, Source, empty_table, frame_of, table_of

SMALLEST_SPREAD = 1e-7
"""Deviation, relative to the mean, below which a column counts as constant: NVTabular's sums cannot tell."""
Vocabulary = Mapping[str, pa.Array | np.ndarray]
"""Column -> values that get an id of their own, in id order; any other value is encoded as unseen."""


def entity_workflow(
    entity: str,
    columns: FeatureColumns,
    vocabulary: Vocabulary,
    list_max_length: int,
    text_dim: int,
    storage: Path,
) -> nvt.Workflow:
    """Workflow for the attributes of users or items.

    Args:
        entity: "user" or "item"; the id column is `{entity}_id` (raw: the row number), features are `{entity}_{name}`.
        vocabulary: for `{entity}_id` and every categorical and list feature.
        list_max_length: elements kept of each list feature.
        text_dim: numbers that each text becomes.
        storage: folder for the vocabularies until the workflow is saved; every workflow needs one of its own.
    """
    tag = {"user": Tags.USER, "item": Tags.ITEM}[entity]
    id_tag = {"user": Tags.USER_ID, "item": Tags.ITEM_ID}[entity]
    nodes = _encoded([f"{entity}_id"], vocabulary, storage) >> ops.AddTags([tag, id_tag])
    if columns.categorical:
        nodes = nodes + (_encoded(_prefixed(entity, columns.categorical), vocabulary, storage) >> ops.AddTags([tag]))
    if columns.continuous:
        filled = _prefixed(entity, columns.continuous) >> ops.FillMedian()
        nodes = nodes + (filled >> ops.Normalize(out_dtype=np.float32) >> ops.AddTags([tag]))
    for name in _prefixed(entity, columns.lists):
        nodes = nodes + (_encoded([name], vocabulary, storage) >> PadList(list_max_length) >> ops.AddTags([tag]))
    for name in _prefixed(entity, columns.texts):
        nodes = nodes + ([name] >> TextVector(text_dim) >> ops.AddTags([tag]))
    return nvt.Workflow(nodes)


def interaction_workflow(as_of: AsOf, vocabulary: Vocabulary, storage: Path) -> nvt.Workflow:
    """Workflow for what depends on the moment: history and its gaps, activity, popularity, prices, calendar.

    Args:
        vocabulary: for `history`, which has the item ids' (one embedding table serves both), and the user categories.
    """
    history = _encoded([HISTORY], vocabulary, storage) >> PadList(as_of.history_length)
    nodes = list(KEYS) + (history >> ops.AddTags([Tags.USER, Tags.SEQUENCE]))
    domain = {"min": 0, "max": NUM_GAPS - 1, "name": HISTORY_GAP}
    gaps = [HISTORY_GAP] >> PadList(as_of.history_length) >> ops.AddProperties({"domain": domain})
    nodes = nodes + (gaps >> ops.AddTags([Tags.USER, Tags.SEQUENCE, Tags.CATEGORICAL]))
    nodes = nodes + (list(USER_NUMBERS) >> LogNormalize() >> ops.AddTags([Tags.USER]))
    nodes = nodes + ([*MOMENT_NUMBERS, *as_of.item_numbers] >> LogNormalize() >> ops.AddTags([Tags.CONTEXT]))
    if as_of.user_categories:
        nodes = nodes + (_encoded(as_of.user_categories, vocabulary, storage) >> ops.AddTags([Tags.USER]))
    return nvt.Workflow(nodes + (["timestamp"] >> Calendar()))


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
    """Mean and deviation of each number's logarithm, for the request path, which cannot afford a workflow."""
    found: dict[str, tuple[float, float]] = {}
    for node in Graph.get_nodes_by_op_type([workflow.output_node], LogNormalize):
        found |= {name: (float(node.op.means[name]), float(node.op.stds[name])) for name in node.op.means}
    return found


def fit(workflow: nvt.Workflow, source: Source, cluster: Cluster) -> nvt.Workflow:
    """Fit a workflow, part by part.

    A continuous attribute that is null in every row, or equal in all, says nothing: it becomes 0 for everybody.
    """
    with np.errstate(invalid="ignore"):  # the variance of a constant column may come out below 0
        executor.fit(workflow, source, cluster)
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
    """Run a fitted workflow over a table in memory; row order is kept."""
    schema = workflow.output_schema
    parts = [empty_table(schema)]
    for begin in range(0, len(table), ROWS_PER_PART):
        parts.append(table_of(workflow.transform(frame_of(table.slice(begin, ROWS_PER_PART))), schema))
    return pa.concat_tables(parts).combine_chunks()


def _encoded(names: Sequence[str], vocabulary: Vocabulary, storage: Path) -> Node:
    known = {name: vocabulary[name] for name in names}
    return list(names) >> Categorify(vocabulary=known, grow=False, out_path=str(storage))


def _prefixed(entity: str, names: Sequence[str]) -> list[str]:
    return [f"{entity}_{name}" for name in names]


def _normalize_of(workflow: nvt.Workflow, name: str) -> ops.Normalize:
    nodes = Graph.get_nodes_by_op_type([workflow.output_node], ops.Normalize)
    return next(node.op for node in nodes if name in node.op.means)
