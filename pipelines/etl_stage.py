"""The etl stage of a run: which logs it reads, what it has read already, where its tasks run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from features.artifact import MANIFEST, Artifact, ArtifactError, ArtifactWriter, file_sha256, open_artifact
from features.cluster import Cluster, open_cluster
from features.logs import LogError, Logs
from pipelines.config import CascadeConfig, as_document

if TYPE_CHECKING:
    from features.drift import Drift

PROFILE, DRIFT = "profile.json", "drift.json"
Say = Callable[[str], None]
QUARANTINE_FILE = "quarantine.parquet"
"""Stands in the run folder only while the etl stage refuses the logs for it; else the etl artifact holds it."""


class DriftError(LogError):
    """Features cannot be made of the later logs.

    Args:
        found: how they differ from the earlier ones, errors first.
    """

    def __init__(self, message: str, found: Sequence[Drift]) -> None:
        super().__init__(message)
        self.found = found


def data_hashes(config: CascadeConfig) -> dict[str, str]:
    """What the etl stage reads: how the data is described, and every byte of every file."""
    described = json.dumps(as_document(config.data) | {"append": None}, sort_keys=True)
    hashes = {"data": hashlib.sha256(described.encode()).hexdigest()}
    for source, files in enumerate(_files(config)):  # numbered: two tables' files may have the same name
        hashes |= {f"{source} {number} {path.name}": file_sha256(path) for number, path in enumerate(files)}
    return hashes


def run(config: CascadeConfig, writer: ArtifactWriter, finished: Path, cluster_form: str, say: Say) -> None:
    """Write the etl artifact; if there is one of the first of these logs, the later ones are appended to it.

    If there is one of all of these logs that differs in `serve_state` alone, its tables are read in place of them.

    Args:
        finished: where the artifact of an earlier run stands, if there is one.
        cluster_form: as `open_cluster` takes it.
        say: is told how later logs differ from the earlier ones.
    Raises: LogError, SplitError, ClusterError.
    """
    before, num_known = _read_before(config, finished)
    make = _impressions if config.data.holds_impressions else _interactions
    with open_cluster(cluster_form) as cluster:
        make(config, writer, cluster, before, num_known, say)


def _interactions(
    config: CascadeConfig, writer: ArtifactWriter, cluster: Cluster, before: Artifact | None, num_known: int, say: Say
) -> None:
    import pyarrow.parquet as pq

    from features import etl
    from features.logs import QuarantineError, appended, read_logs

    refused = writer.path.parent / QUARANTINE_FILE
    refused.unlink(missing_ok=True)
    if before is not None and num_known == 1 + len(config.data.append):
        logs = etl.logs_of(before)
        _keep_drift(before, writer)
    else:
        try:
            logs = read_logs(config.data, num_known)
        except QuarantineError as error:
            pq.write_table(error.quarantine, refused)
            raise LogError(f"{error}. Every such row stands in {refused}, with its file, line and reason") from error
        if before is not None:
            _report_drift(_profile(logs, _fitted(before)), before, writer, say)
            logs = appended(etl.logs_of(before), logs)
    _write_json(writer, PROFILE, _profile(logs))
    etl.run(config.etl, logs, writer, cluster, before, 1 + len(config.data.append))


def _profile(logs: Logs, fitted: dict | None = None) -> dict:
    from features.profile import profile_tables

    tables = {"interactions": logs.interactions, "users": logs.users, "items": logs.items}
    if fitted is not None:  # later logs may leave out a table
        tables = {name: table for name, table in tables.items() if logs.rows_read[name]}
    return profile_tables(
        tables,
        keys={"interactions": ("user_id", "item_id", "timestamp"), "users": ("user_id",), "items": ("item_id",)},
        times={"interactions": "timestamp"},
        rows_read=logs.rows_read,
        quarantine=logs.quarantine,
        fitted=fitted,
    )


def _fitted(before: Artifact) -> dict:
    return json.loads(before.file(PROFILE).read_text())


def _report_drift(profile: dict, before: Artifact, writer: ArtifactWriter, say: Say) -> None:
    """Say and write how the later logs differ. Raises: LogError if features cannot be made of them."""
    from dataclasses import asdict

    from features.drift import drift_lines, schema_drift

    found = schema_drift(_fitted(before), profile)
    lines = drift_lines(found)
    _write_json(writer, DRIFT, [asdict(one) for one in found])
    writer.volatile.append(DRIFT)  # says how the logs came, not what they are
    if any(one.severity == "error" for one in found):
        raise DriftError("the later logs do not fit the earlier ones:\n" + "\n".join(lines), found)
    for line in lines:
        say(f"etl        {line}")


def _keep_drift(before: Artifact, writer: ArtifactWriter) -> None:
    """What was said of the last append."""
    if DRIFT in before.manifest["parts"]:
        shutil.copyfile(before.file(DRIFT), writer.path / DRIFT)
        writer.volatile.append(DRIFT)


def _write_json(writer: ArtifactWriter, name: str, document: object) -> None:
    (writer.path / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _impressions(
    config: CascadeConfig, writer: ArtifactWriter, cluster: Cluster, before: Artifact | None, num_known: int, say: Say
) -> None:
    from features import impressions
    from features.profile import profile_tables

    log, share = config.data.impression_log(config.etl.split), config.data.max_quarantined_share
    read_now = impressions.run(config.etl, log, share, writer, cluster, before, num_known)
    parts = sorted((writer.path / "raw").glob("*/*.parquet"))
    quarantine = writer.path / "quarantine.parquet"
    profile = profile_tables({"impressions": parts}, rows_read=writer.metrics["rows_read"], quarantine=quarantine)
    _write_json(writer, PROFILE, profile)
    if before is not None:
        later = profile_tables({"impressions": read_now}, fitted=_fitted(before))
        _report_drift(later, before, writer, say)


def _read_before(config: CascadeConfig, finished: Path) -> tuple[Artifact | None, int]:
    """The artifact of the first logs of these, or of all, if there is one, and how many logs it has.

    Up to which moment it knows the users makes no difference: it is not taken over.
    """
    if config.data.adapter.startswith("synthetic") or not (finished / MANIFEST).is_file():
        return None, 0
    try:
        artifact = open_artifact(finished, "etl")
    except ArtifactError:
        return None, 0
    made_with = artifact.manifest["config"] | {"serve_state": None}, artifact.manifest["seed"]
    if made_with != (as_document(config.etl) | {"serve_state": None}, config.seed):
        return None, 0
    hashes, num_sources = data_hashes(config), 1 + len(config.data.append)
    if config.data.holds_impressions:  # they have no such moment: an artifact of all logs would be the one to be made
        num_sources -= 1
    for num_known in range(num_sources, 0, -1):
        if artifact.manifest["inputs"] == _of_first(hashes, num_known):
            return artifact, num_known
    return None, 0


def _of_first(hashes: Mapping[str, str], num_sources: int) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if name == "data" or int(name.split()[0]) < num_sources}


def _files(config: CascadeConfig) -> list[Sequence[Path]]:
    """The files of the first log and of each append."""
    data = config.data
    if data.adapter == "synthetic":
        return []
    if data.holds_impressions:
        return data.impression_log(config.etl.split).files()
    from features.logs.table_config import raw_files

    return [[file.path for file in raw_files(source)] for source in data.table_sources()]
