"""Fitting workflows and writing what they make, as Dask tasks, one a part.

Merlin 23.8's own executor fits in one thread, and reads the types of a workflow's output from a sample of the rows: it
fails where every row of a list column is empty. The workflow and its operators are NVTabular's either way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nvtabular as nvt
import pandas as pd
import pyarrow.parquet as pq
from dask import delayed
from merlin.core.dispatch import concat_columns, is_list_dtype, list_val_dtype
from merlin.dag import ColumnSelector
from merlin.dag.executors import DaskExecutor, LocalExecutor
from merlin.schema import Schema

from features.cluster import Cluster
from features.partitions import Source, dataset_of, empty_table, table_of

COMPRESSION = "snappy"


def fit(workflow: nvt.Workflow, source: Source, cluster: Cluster) -> nvt.Workflow:
    """Fit every operator of a workflow on all parts of a source."""
    stock = workflow.executor
    workflow.executor = _Executor(cluster)
    try:
        workflow.fit(dataset_of(source, cluster.on_gpu))
    finally:
        workflow.executor = stock
    return workflow


def write_parts(workflow: nvt.Workflow, source: Source, folder: Path, cluster: Cluster) -> dict[str, int]:
    """Transform a source and write each part as a Parquet file.

    A part is written under a temporary name and then renamed: one that a dying worker began is written again.

    Returns: file name -> rows, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not len(source):
        pq.write_table(empty_table(workflow.output_schema), folder / part_name(0))
        return {part_name(0): 0}
    workflow.executor = _Executor(cluster)
    frames = workflow.transform(dataset_of(source, cluster.on_gpu)).to_ddf().to_delayed(optimize_graph=True)
    schema = workflow.output_schema
    tasks = [delayed(_write)(frame, schema, folder / part_name(number)) for number, frame in enumerate(frames)]
    return {part_name(number): rows for number, rows in enumerate(cluster.compute(tasks))}


def part_name(number: int) -> str:
    return f"part_{number:06d}.parquet"


def _write(frame, schema: Schema, path: Path) -> int:
    table = table_of(frame, schema)
    building = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, building, compression=COMPRESSION)
    os.replace(building, path)
    return len(table)


class _Executor(DaskExecutor):
    """Merlin's, with the statistics computed on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        target_format = self._executor.target_format
        self._executor = _LocalExecutor()
        self._executor.target_format = target_format
        self._cluster = cluster

    def __getstate__(self) -> dict:
        return {name: value for name, value in super().__getstate__().items() if name != "_cluster"}

    def fit_phase(self, dataset, nodes: Sequence, strict: bool = False) -> None:
        frame = dataset.to_ddf()
        statistics = []
        for node in nodes:
            above = sum((one.output_columns for one in node.parents_with_dependencies), ColumnSelector())
            extra = set(node.input_columns.names) - set(above.names)
            inputs = self.transform(
                frame, node.parents_with_dependencies, additional_columns=extra, capture_dtypes=True, strict=strict
            )
            statistics.append(node.op.fit(node.input_columns, inputs))
        for node, computed in zip(nodes, self._cluster.compute(statistics), strict=True):
            node.op.fit_finalize(computed)
            node.op.fitted = True


class _LocalExecutor(LocalExecutor):
    """Merlin's, for frames with Arrow columns: an operator says itself what it returns, and no column is copied.

    pandas copies what `frame[names]` and `concat` take, which was a tenth of the time.
    """

    def _append_addl_root_columns(self, node, transformable, upstream_outputs):
        wanted = {*node.input_schema.column_names, *node.dependency_columns.names}
        there = {name for output in upstream_outputs for name in output}
        if missing := [name for name in transformable if name in wanted - there]:
            upstream_outputs.append(_selected([transformable], missing))
        return upstream_outputs

    def _merge_upstream_columns(self, upstream_outputs, merge_fn=None):
        return _selected(upstream_outputs, list(dict.fromkeys(name for one in upstream_outputs for name in one)))

    def _combine_node_outputs(self, node, transformed, output):
        names = node.output_schema.column_names
        return _selected(
            [output, transformed] if output is not None else [transformed],
            [*(() if output is None else output), *names],
        )

    def _build_schema_from_data(self, output_data, col_name, output_col_schema):
        column = output_data[col_name]
        if isinstance(getattr(column, "dtype", None), pd.ArrowDtype):
            return output_col_schema
        if is_list_dtype(column) and list_val_dtype(column) is None:
            return output_col_schema
        return super()._build_schema_from_data(output_data, col_name, output_col_schema)


def _selected(frames: Sequence, names: Sequence[str]):
    """Columns of several frames as one; the last frame that has a column gives it."""
    last = {name: frame for frame in frames for name in frame}
    if all(isinstance(frame, pd.DataFrame) for frame in frames):
        return pd.DataFrame({name: last[name][name] for name in dict.fromkeys(names)}, copy=False)
    return concat_columns([frame[[name for name in dict.fromkeys(names) if last[name] is frame]] for frame in frames])
