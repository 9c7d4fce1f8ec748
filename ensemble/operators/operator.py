"""What every operator of the request path shares: it adds columns, keeps the others, and brings its files along."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from merlin.dag import BaseOperator, ColumnSelector
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from ensemble.config import ServingConfig
from features.artifact import MANIFEST

Columns = dict[str, np.ndarray]
"""Columns of a request by name; the first dimension of each is B, the users of the call."""


class RequestOperator(BaseOperator):
    """Base of the operators. A subclass says what it adds (`outputs`) and computes it (`run`).

    What cannot be pickled (sessions, indexes, stores) is opened by `open` and kept in attributes that start with
    `opened_`; they stay out of the exported pickle.

    Args:
        files: files or folders that `open` needs, by the name that they get inside the exported ensemble.
    """

    outputs: ClassVar[dict[str, tuple[Any, tuple[int | None, ...]]]] = {}
    """Columns it adds: dtype and shape behind B, None where a dimension varies."""
    opened_config: ServingConfig = ServingConfig()
    """What serving is configured to; set before `open`, and no part of the export."""

    def __init__(self, **files: Path) -> None:
        super().__init__()
        self._files = files

    def run(self, columns: Columns) -> Columns:
        """The added columns, from the columns so far. Row b of every output depends on row b of the inputs only."""
        raise NotImplementedError

    def open(self, folder: Path) -> None:
        """Open the files, which now stand in `folder` under their names."""

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        kept = {name: transformable[name] for name in transformable}
        return TensorTable(kept | self.run({name: column.values for name, column in kept.items()}))

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Schema | None = None
    ) -> Schema:
        added = [ColumnSchema(name, dtype=dtype, dims=(None, *shape)) for name, (dtype, shape) in self.outputs.items()]
        return Schema([*(column for column in input_schema if column.name not in self.outputs), *added])

    def save_artifacts(self, artifact_path=None) -> None:
        for name, source in self._files.items():
            target = Path(str(artifact_path)) / name
            if source.is_dir():
                # A stage's manifest says when it ran: with it, equal inputs would not give an equal export.
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
            elif not target.exists():  # several operators share the items
                shutil.copyfile(source, target)

    def load_artifacts(self, artifact_path=None) -> None:
        if artifact_path:  # Merlin's Graph also calls this while it is built, with nothing to load from
            self.open(Path(str(artifact_path)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("opened_")} | {"_files": {}}
