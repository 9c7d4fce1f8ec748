"""The beginning of a refresh: what is given is checked, and the new run's folder made beside the live one's.

The new run starts with the live one's features and models, to append to and to start from. They are hard links: no
stage writes into a finished artifact, it puts a new one in its place. So the live run stays as it is, to the byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from features.artifact import Artifact, open_artifact
from pipelines.config import CascadeConfig, load_saved_config
from pipelines.refresh.record import Record, RefreshError, read_record
from pipelines.stages import CONFIG_FILE, stages_of

_STARTS_WITH = ("etl", "retrieval", "ranking")


def refreshed_config(run: Path, append: Sequence[str], overrides: Sequence[str]) -> CascadeConfig:
    """The live run's configuration with later logs behind its own, and warm starts, which overrides may turn off.

    Serving knows the users up to the start of the test period, so that measuring is honest.

    Raises: RefreshError if there is no such run, it cannot grow, or has these logs; ConfigError.
    """
    if not (run / CONFIG_FILE).is_file():
        raise RefreshError(f"{run}: there is no such run; give the folder of the run that is live")
    live = load_saved_config(run / CONFIG_FILE)
    if live.data.adapter.startswith("synthetic"):
        raise RefreshError(f"{run}: is of a made world, which has no later logs")
    if known := [path for path in append if path in live.data.append]:
        raise RefreshError(
            f"--append {known[0]}: is part of {run} already (data.append); give the logs that came after it"
        )
    words = [
        f"--data.append={json.dumps([*live.data.append, *append])}",
        "--retrieval.warm-start=true",
        "--ranking.clicks.warm-start=true",
    ]
    return load_saved_config(run / CONFIG_FILE, [*words, *overrides, "--etl.serve-state=before_test"])


def check_logs_are_later(run: Path, config: CascadeConfig, append: Sequence[str]) -> None:
    """Raises: RefreshError if one of the later logs is a known one, or they have too much from before the end of the
    others; LogError if they cannot be read.
    """
    from features.artifact import file_sha256
    from features.logs import read_logs
    from features.logs.table_config import raw_files

    etl = open_artifact(run / "etl", "etl")
    known = set(etl.manifest["inputs"].values())
    for path, source in zip(append, config.data.table_sources()[-len(append) :], strict=True):
        if {file_sha256(file.path) for file in raw_files(source)} <= known:
            raise RefreshError(f"--append {path}: the same files are part of {run} already under another name")
    time = read_logs(config.data, 1 + len(config.data.append) - len(append)).interactions["timestamp"].to_numpy()
    end = _end(etl)
    num_early = int((time < end).sum())
    if num_early > config.refresh.max_early_share * len(time):
        raise RefreshError(
            f"--append {', '.join(append)}: {num_early:,} of {len(time):,} interactions are from before {end} (Unix "
            f"seconds), where the logs of {run} end; at most a share of {config.refresh.max_early_share:g} may be "
            "(refresh.max_early_share). Give the logs that came after it"
        )


def _end(etl: Artifact) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return pc.max(pq.read_table(etl.file("events.parquet"), columns=["timestamp"])["timestamp"]).as_py()


def begun(run: Path, config: CascadeConfig, append: Sequence[str], out: Path) -> Record:
    """The record of the new run, whose folder is made if it is not there.

    Raises: RefreshError if the folder is of something else, or the live run is not finished.
    """
    if out.exists():
        record = read_record(out)
        if record is None:
            raise RefreshError(f"{out}: is there, and no refresh made it; give another --out")
        if not record.is_of(run, append):
            raise RefreshError(
                f"{out}: is the refresh of {record.origin} with {', '.join(record.append)}, not of {run} with "
                f"{', '.join(append)}; give another --out"
            )
        return record
    names = [stage.name for stage in stages_of(config)]
    for name in names:
        open_artifact(run / name, name)
    if not config.data.holds_impressions:
        check_logs_are_later(run, config, append)
    record = Record(str(run.resolve()), list(append))
    building = out.parent / f".{out.name}.beginning"
    shutil.rmtree(building, ignore_errors=True)
    for name in (name for name in _STARTS_WITH if name in names):
        linked(run / name, building / name)
    record.write(building)
    os.replace(building, out)
    return record


def linked(source: Path, target: Path) -> None:
    """The folder once more, sharing disk space where the file system can."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
