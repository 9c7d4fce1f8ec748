"""Stage `etl` for impressions, rows with a label such as Criteo's: raw files -> encoded examples.

Parts: `examples/{train,valid,test}/` (the label, numbers as normalised logarithms, categories as ids, lists as ids
padded to one length, and the number of whoever saw the row, if the log says it), `raw/{train,valid,test}/` (the rows as
they were read, for an append), `workflows/impressions`, `schema.json`, `vocabulary.json`, `quarantine.parquet`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import nvtabular as nvt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from merlin.schema import Schema, Tags
from nvtabular import ops

from features import executor, vocabulary
from features.artifact import Artifact, ArtifactWriter
from features.cluster import IN_PROCESS, Cluster
from features.config import EtlConfig, ImpressionsConfig
from features.impressions_as_of import GROUP, as_of_names, derive
from features.impressions_history import append_history, with_history
from features.logs import LogError
from features.logs.criteo import CRITEO_COLUMNS
from features.logs.impressions import ImpressionBlock, ImpressionColumns, ImpressionLog
from features.logs.quarantine import Quarantine
from features.ops.calendar import Calendar
from features.ops.categorify import Categorify
from features.ops.count_encoding import CountEncoding
from features.ops.log_normalize import LogNormalize
from features.ops.pad_list import PadList
from features.ops.signed_log_normalize import SignedLogNormalize
from features.ops.target_encoding import TargetEncoding
from features.partitions import ROWS_PER_PART, ParquetParts
from features.schema import save_schema
from features.split import PART_NAMES
from features.workflow import load_workflow

__all__ = ["CRITEO_COLUMNS", "ConstantLabelError", "impression_workflow", "run", "test_rows_as_read_by"]
WORKFLOW = "impressions"


class ConstantLabelError(LogError):
    """All rows of a part have the same label."""


def run(
    config: EtlConfig,
    log: ImpressionLog,
    max_quarantined_share: float,
    writer: ArtifactWriter,
    cluster: Cluster,
    before: Artifact | None = None,
    num_known: int = 0,
) -> list[Path]:
    """Write the etl artifact of an impression log.

    Args:
        config: `impressions` and `list_max_length` apply.
        max_quarantined_share: largest share of unreadable rows.
        before: the artifact of the log's first sources; its categories keep their ids, and its rows are not read again
            if the log keeps its parts.
        num_known: sources of the log that `before` has.
    Returns: the files of raw rows that were read now, without those that `before` had.
    Raises: LogError if the files cannot be used; ConstantLabelError; SplitError.
    """
    raw = writer.path / "raw"
    quarantine, rows_read = Quarantine(), 0
    parts = _Parts(raw)
    if before is not None and log.keeps_parts:
        parts.take_over(before, as_train=log.earlier_train)
        rows_read = before.metrics["rows_read"]["impressions"]
        quarantine.extend(pq.read_table(before.file("quarantine.parquet")))
    rows_read += parts.write(log.blocks(num_known if log.keeps_parts else 0, quarantine))
    _check(parts, quarantine, rows_read, max_quarantined_share, log, raw)
    known = vocabulary.of_artifact(before)
    with TemporaryDirectory(prefix="cascade-etl-") as scratch:
        workflow = impression_workflow(
            config.impressions, log.columns, known.columns, Path(scratch), config.list_max_length
        )
        files = {name: sorted((raw / name).glob("*.parquet")) for name in PART_NAMES.values()}
        if log.columns.group is not None or log.columns.as_of:
            files = derive(log.columns, files, config.impressions.smoothing, Path(scratch) / "derived")
        sources = {name: ParquetParts.of(paths) for name, paths in files.items()}
        executor.fit(workflow, sources["train"], cluster)
        num_rows = {}
        for name, source in sources.items():
            written = executor.write_parts(workflow, source, writer.path / "examples" / name, cluster)
            writer.rows |= {f"examples/{name}/{file}": rows for file, rows in written.items()}
            num_rows[name] = sum(written.values())
        if log.columns.history_of is not None:
            append_history(log.columns, files, writer.path / "examples")
        workflow.save(str(writer.path / "workflows" / WORKFLOW))
    writer.volatile += ["workflows/*/workflow.pkl", "workflows/*/metadata.json"]
    values = vocabulary.of_workflow(workflow)
    version = vocabulary.write(writer, values, log.num_sources)
    schema = Schema([column for column in workflow.output_schema if column.name != GROUP])
    schema = with_history(schema, log.columns) if log.columns.history_of is not None else schema
    save_schema(schema, writer.path / "schema.json")
    pq.write_table(quarantine.to_table(), writer.path / "quarantine.parquet")
    split = log.split()
    writer.metrics |= {
        "kind": "impressions",
        "rows_read": {"impressions": rows_read},
        "rows_quarantined": len(quarantine.rows),
        "num_impressions": num_rows,
        "num_categories": {name: len(column) for name, column in sorted(values.items())},
        "group": None if log.columns.group is None else {"of": log.columns.group, "column": GROUP},
        "vocabulary": version,
    }
    if split is not None:
        writer.metrics |= {"valid_from": split.valid_from, "test_from": split.test_from}
    return parts.read_now


def test_rows_as_read_by(
    trained: Artifact, etl: Artifact, columns: ImpressionColumns, smoothing: float, folder: Path
) -> list[Path]:
    """The test part of an artifact once more, encoded for the models of an earlier one: its ids, its statistics.

    Args:
        trained: the earlier one.
        columns, smoothing: of the log and of the features, which both have.
        folder: where the files are written.
    """
    files = {name: etl.files(f"raw/{name}/") for name in PART_NAMES.values()}
    if columns.group is not None or columns.as_of:
        files = derive(columns, files, smoothing, folder / "derived")
    if columns.history_of is None:
        files = {"test": files["test"]}
    workflow = load_workflow(trained, WORKFLOW)
    for name, paths in files.items():
        executor.write_parts(workflow, ParquetParts.of(paths), folder / "examples" / name, IN_PROCESS)
    if columns.history_of is not None:
        append_history(columns, files, folder / "examples")
    return sorted((folder / "examples" / "test").glob("*.parquet"))


def impression_workflow(
    config: ImpressionsConfig,
    columns: ImpressionColumns,
    known: Mapping[str, pa.Array],
    storage: Path,
    list_max_length: int = 8,
) -> nvt.Workflow:
    """Label, numbers, categories and lists of impressions.

    Args:
        known: column -> values that have an id already.
        storage: folder for the vocabularies until the workflow is saved.
        list_max_length: elements kept of each list.
    """
    context = ops.AddTags([Tags.CONTEXT])
    nodes = [columns.label] >> ops.AddTags([Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    if columns.continuous:
        nodes = nodes + (list(columns.continuous) >> LogNormalize() >> context)
    if real := [*columns.real, *as_of_names(columns)]:
        nodes = nodes + (real >> SignedLogNormalize() >> context)
    if categorical := [name for name in columns.categorical if name not in columns.hidden]:
        nodes = nodes + (categorical >> _encoded(config, categorical, known, storage) >> context)
    for name in columns.lists:
        nodes = nodes + ([name] >> _encoded(config, [name], known, storage) >> PadList(list_max_length) >> context)
    if columns.calendar:
        nodes = nodes + (["timestamp"] >> Calendar())
    for name in config.count_encoded:
        nodes = nodes + ([name] >> CountEncoding() >> LogNormalize() >> context)
    for name in config.target_encoded:
        rate = TargetEncoding(columns.label, kfold=config.folds, p_smooth=config.smoothing)
        nodes = nodes + ([name] >> rate >> context)
    if columns.group is not None:
        nodes = nodes + ([GROUP] >> ops.AddTags([Tags.ID]))
    return nvt.Workflow(nodes)


def _encoded(
    config: ImpressionsConfig, names: Iterable[str], known: Mapping[str, pa.Array], storage: Path
) -> Categorify:
    return Categorify(
        freq_threshold=config.min_frequency,
        max_size=config.max_categories,
        vocabulary={name: known[name] for name in names if name in known} or None,
        out_path=str(storage),
        dtype=np.int32,
    )


class _Parts:
    """Raw rows by part, as Parquet files of about ROWS_PER_PART rows.

    Args:
        folder: where `train/`, `valid/` and `test/` are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_files = dict.fromkeys(PART_NAMES.values(), 0)
        self.num_rows = dict.fromkeys(PART_NAMES.values(), 0)
        self.read_now: list[Path] = []
        for name in PART_NAMES.values():
            (folder / name).mkdir(parents=True)

    def take_over(self, before: Artifact, as_train: bool) -> None:
        """The raw rows of an artifact, which share its disk space where the file system can.

        Args:
            as_train: whether what validated and tested trains from now on.
        """
        for name in PART_NAMES.values():
            for path in before.files(f"raw/{name}/"):
                target = self._next("train" if as_train else name, pq.read_metadata(path).num_rows)
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)

    def write(self, blocks: Iterable[ImpressionBlock]) -> int:
        """Returns: rows read, those in quarantine included."""
        waiting: dict[str, list[pa.Table]] = {name: [] for name in PART_NAMES.values()}
        rows_read = 0
        for block in blocks:
            rows_read += block.rows_read
            for part, name in PART_NAMES.items():
                is_here = block.part == part
                if not is_here.any():
                    continue
                waiting[name].append(block.columns if is_here.all() else block.columns.filter(pa.array(is_here)))
                if sum(map(len, waiting[name])) >= ROWS_PER_PART:
                    self._write(name, waiting[name])
                    waiting[name] = []
        for name, tables in waiting.items():
            if tables:
                self._write(name, tables)
        return rows_read

    def _write(self, name: str, tables: list[pa.Table]) -> None:
        table = pa.concat_tables(tables).unify_dictionaries()
        path = self._next(name, len(table))
        pq.write_table(table, path, compression=executor.COMPRESSION)
        self.read_now.append(path)

    def _next(self, name: str, num_rows: int) -> Path:
        path = self.folder / name / executor.part_name(self.num_files[name])
        self.num_files[name] += 1
        self.num_rows[name] += num_rows
        return path


def _check(
    parts: _Parts, quarantine: Quarantine, rows_read: int, max_share: float, log: ImpressionLog, folder: Path
) -> None:
    """Raises: LogError if a part has no rows, or too many rows cannot be read; ConstantLabelError."""
    from features.logs.checks import check_quarantined_share

    check_quarantined_share(quarantine.to_table(), {"impressions": rows_read}, max_share)
    if empty := [name for name, rows in parts.num_rows.items() if not rows]:
        raise LogError(
            f"{log.name}: no rows to {' and '.join(empty)} with, of {rows_read} rows read; give more rows, or change "
            "how they are split"
        )
    for name in PART_NAMES.values():
        labels = [pq.read_table(path, columns=[log.columns.label]) for path in sorted((folder / name).glob("*"))]
        lowest_and_highest = pc.min_max(pa.concat_tables(labels)[log.columns.label]).as_py()
        if lowest_and_highest["min"] == lowest_and_highest["max"]:
            raise ConstantLabelError(
                f"{log.name}: the label is {lowest_and_highest['min']} in all {parts.num_rows[name]} rows to {name} "
                "with: nothing can be learned or measured; check which column the label is, and what makes it 1"
            )
