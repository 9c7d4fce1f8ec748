"""Stage `etl` for impressions, rows with a label such as Criteo's: raw files -> encoded examples.

Parts: `examples/{train,valid,test}/` (the label, numbers as normalised logarithms, categories as ids),
`raw/{train,valid,test}/` (the rows as they were read, for an append), `workflows/impressions`, `schema.json`,
`vocabulary.json`, `quarantine.parquet`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import nvtabular as nvt
import pyarrow as pa
import pyarrow.parquet as pq
from merlin.schema import Tags
from nvtabular import ops

from features import executor, vocabulary
from features.artifact import Artifact, ArtifactWriter
from features.cluster import Cluster
from features.config import ImpressionsConfig
from features.logs import LogError
from features.logs.criteo import CRITEO_COLUMNS, CriteoConfig, criteo_blocks, criteo_files
from features.logs.impressions import ImpressionBlock, ImpressionColumns
from features.logs.quarantine import Quarantine
from features.ops.categorify import Categorify
from features.ops.count_encoding import CountEncoding
from features.ops.log_normalize import LogNormalize
from features.ops.target_encoding import TargetEncoding
from features.partitions import ROWS_PER_PART, ParquetParts
from features.schema import save_schema
from features.split import PART_NAMES, TEST, TRAIN, VALID

WORKFLOW = "impressions"


def run(
    config: ImpressionsConfig,
    data: CriteoConfig,
    append: Sequence[str],
    max_quarantined_share: float,
    writer: ArtifactWriter,
    cluster: Cluster,
    before: Artifact | None = None,
    num_known: int = 0,
) -> list[Path]:
    """Write the etl artifact of an impression log.

    Args:
        append: later files or folders, in order.
        max_quarantined_share: largest share of unreadable rows.
        before: the artifact of the log's first part; its rows are not read again, and its categories keep their ids.
        num_known: sources (the log, then each append) that `before` has.
    Returns: the files of raw rows that were read now, without those that `before` had.
    Raises: LogError if the files cannot be used.
    """
    raw = writer.path / "raw"
    quarantine, rows_read = Quarantine(), 0
    parts = _Parts(raw)
    if before is not None:
        parts.take_over(before, as_train=data.split == "days")
        rows_read = before.metrics["rows_read"]["impressions"]
        quarantine.extend(pq.read_table(before.file("quarantine.parquet")))
    for number in range(num_known, 1 + len(append)):
        is_last = number == len(append)
        blocks = _blocks(data, append[number - 1] if number else None, is_last, quarantine)
        rows_read += parts.write(blocks)
    _check(parts, quarantine, rows_read, max_quarantined_share, data)
    known = vocabulary.of_artifact(before)
    with TemporaryDirectory(prefix="cascade-etl-") as scratch:
        workflow = impression_workflow(config, CRITEO_COLUMNS, known.columns, Path(scratch))
        sources = {name: ParquetParts.of(sorted((raw / name).glob("*.parquet"))) for name in PART_NAMES.values()}
        executor.fit(workflow, sources["train"], cluster)
        num_rows = {}
        for name, source in sources.items():
            written = executor.write_parts(workflow, source, writer.path / "examples" / name, cluster)
            writer.rows |= {f"examples/{name}/{file}": rows for file, rows in written.items()}
            num_rows[name] = sum(written.values())
        workflow.save(str(writer.path / "workflows" / WORKFLOW))
    writer.volatile += ["workflows/*/workflow.pkl", "workflows/*/metadata.json"]
    values = vocabulary.of_workflow(workflow)
    version = vocabulary.write(writer, values, 1 + len(append))
    save_schema(workflow.output_schema, writer.path / "schema.json")
    pq.write_table(quarantine.to_table(), writer.path / "quarantine.parquet")
    writer.metrics |= {
        "kind": "impressions",
        "rows_read": {"impressions": rows_read},
        "rows_quarantined": len(quarantine.rows),
        "num_impressions": num_rows,
        "num_categories": {name: len(column) for name, column in sorted(values.items())},
        "vocabulary": version,
    }
    return parts.read_now


def impression_workflow(
    config: ImpressionsConfig, columns: ImpressionColumns, known: Mapping[str, pa.Array], storage: Path
) -> nvt.Workflow:
    """Label, numbers and categories of impressions.

    Args:
        known: column -> values that have an id already.
        storage: folder for the vocabularies until the workflow is saved.
    """
    categories = Categorify(
        freq_threshold=config.min_frequency,
        max_size=config.max_categories,
        vocabulary={name: known[name] for name in columns.categorical if name in known} or None,
        out_path=str(storage),
        dtype=np.int32,
    )
    nodes = [columns.label] >> ops.AddTags([Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    nodes = nodes + (list(columns.continuous) >> LogNormalize() >> ops.AddTags([Tags.CONTEXT]))
    nodes = nodes + (list(columns.categorical) >> categories >> ops.AddTags([Tags.CONTEXT]))
    for name in config.count_encoded:
        nodes = nodes + ([name] >> CountEncoding() >> LogNormalize() >> ops.AddTags([Tags.CONTEXT]))
    for name in config.target_encoded:
        rate = TargetEncoding(columns.label, kfold=config.folds, p_smooth=config.smoothing)
        nodes = nodes + ([name] >> rate >> ops.AddTags([Tags.CONTEXT]))
    return nvt.Workflow(nodes)


def later(data: CriteoConfig, path: str) -> CriteoConfig:
    """How later files are read: each row falls where `data.split` says."""
    return replace(data, train=path, valid=None, test=None, split="random")


def _blocks(data: CriteoConfig, append: str | None, is_last: bool, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
    """The rows of one source; with split "days" only the last source validates and tests."""
    if append is None:
        for block in criteo_blocks(data, quarantine):
            yield block if is_last or data.split != "days" else replace(block, part=np.full_like(block.part, TRAIN))
        return
    from_later = later(data, append)
    if data.split == "random":
        yield from criteo_blocks(from_later, quarantine)
        return
    files = [str(path) for path in criteo_files(from_later)]
    halves = _halves(from_later, files[-1]) if data.split == "days" and is_last else None
    row = 0
    for block in criteo_blocks(from_later, quarantine):
        part = np.full_like(block.part, TRAIN)
        if halves is not None and block.file == files[-1]:
            part = np.where(np.arange(row, row + len(part)) < halves, VALID, TEST).astype(part.dtype)
            row += len(part)
        yield replace(block, part=part)


def _halves(data: CriteoConfig, file: str) -> int:
    """Half of the rows of a file that can be used."""
    blocks = criteo_blocks(replace(data, train=file), Quarantine())
    return sum(len(block.part) for block in blocks) // 2


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


def _check(parts: _Parts, quarantine: Quarantine, rows_read: int, max_share: float, data: CriteoConfig) -> None:
    """Raises: LogError if a part has no rows, or too many rows cannot be read."""
    from features.logs.checks import check_quarantined_share

    check_quarantined_share(quarantine.to_table(), {"impressions": rows_read}, max_share)
    if empty := [name for name, rows in parts.num_rows.items() if not rows]:
        raise LogError(
            f"data.criteo: no rows to {' and '.join(empty)} with, of {rows_read} rows read from {data.train}; give "
            "more rows, or change data.criteo.split"
        )
