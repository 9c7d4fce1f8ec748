"""Vocabularies of an etl artifact: which values have an id of their own. They only ever grow.

`vocabulary.json` holds the version: a number that grows by one with each append, a hash of all values in id order, and
how many there are of each column. The values themselves stand in the workflows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import nvtabular as nvt
import pyarrow as pa
from merlin.dag import Graph

from features.artifact import Artifact, ArtifactWriter
from features.ops.categorify import Categorify

FILE = "vocabulary.json"


@dataclass(frozen=True)
class KnownValues:
    """What has an id already."""

    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    """Column -> values in id order."""

    def rows(self, name: str) -> np.ndarray:
        """[known] values of a column of row numbers."""
        return self.columns[name].to_numpy() if name in self.columns else np.empty(0, dtype=np.int64)


def of_artifact(etl: Artifact | None) -> KnownValues:
    """The vocabularies of an etl artifact; of None: nothing is known."""
    if etl is None:
        return KnownValues()
    names = {name.split("/")[1] for name in etl.manifest["parts"] if name.startswith("workflows/")}
    columns: dict[str, pa.Array] = {}
    for name in sorted(names):
        columns |= of_workflow(nvt.Workflow.load(str(etl.path / "workflows" / name)))
    return KnownValues(columns)


def of_workflow(workflow: nvt.Workflow) -> dict[str, pa.Array]:
    """Column -> values in id order."""
    nodes = Graph.get_nodes_by_op_type([workflow.output_node], Categorify)
    return {name: node.op.vocabulary(name) for node in nodes for name in node.input_columns.names}


def write(writer: ArtifactWriter, values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Write the version file.

    Args:
        values: column -> values in id order, of all columns.
        number: of logs that they come from, the first one and each append.
    Returns: the version, {"number", "sha256"}, by which models say what they were trained on.
    """
    arrays = {name: pa.array(column) if isinstance(column, np.ndarray) else column for name, column in values.items()}
    version = {"number": number, "sha256": _digest(arrays)}
    document = version | {"num_values": {name: len(arrays[name]) for name in sorted(arrays)}}
    (writer.path / FILE).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    return version


def has_grown_from(values: Mapping[str, pa.Array], earlier: Mapping[str, Any]) -> bool:
    """Whether every value of an earlier vocabulary has its id still, so that what was learned of an id holds.

    Args:
        values: column -> values in id order, of all columns.
        earlier: the earlier version file's document.
    """
    num_values: Mapping[str, int] = earlier["num_values"]
    if num_values.keys() != values.keys() or any(len(values[name]) < num for name, num in num_values.items()):
        return False
    return _digest({name: values[name][:num] for name, num in num_values.items()}) == earlier["sha256"]


def _digest(arrays: Mapping[str, pa.Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        for value in arrays[name].to_pylist():
            digest.update(repr(value).encode() + b"\0")
    return digest.hexdigest()
