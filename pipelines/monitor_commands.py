"""What `cascade monitor` does."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from features.errors import CascadeError
from pipelines.commands import CommandError, repository, run_folder, saved_config
from pipelines.report_file import write_report

STATUS = {"ok": 0, "findings": 3, "too few requests": 4}
PAGE, DOCUMENT, PROMETHEUS = "monitor.html", "monitor.json", "cascade_monitor.prom"


class MonitorError(CascadeError, ValueError):
    """The monitor cannot read what it needs."""


def monitor(options: Namespace) -> int:
    """Write the page, the JSON document and the Prometheus file, and say what is wrong.

    Returns: the exit status.
    """
    from pipelines.monitor.later_events import JOURNAL, check_whole, read_later_events
    from pipelines.monitor.logged_requests import LoggedRequests
    from pipelines.monitor.monitored import document, failed_sources, monitored
    from pipelines.monitor.offline_features import OfflineFeatures
    from pipelines.monitor.page import write_monitor_page
    from pipelines.monitor.prometheus_file import write_prometheus
    from pipelines.monitor.reference import SECONDS_PER_DAY, logged_reference, training_reference
    from pipelines.stages import CONFIG_FILE, NO_USERS

    run: Path = run_folder(options, out_is_run=False)
    if not (run / CONFIG_FILE).is_file():
        raise CommandError(f"{run}: there is no such run; `cascade run --out {run}` makes one")
    config = saved_config(options, run)
    if config.data.holds_impressions:
        raise CommandError(f"{run}: monitoring {NO_USERS}")
    version = repository(run) / "cascade" / "1"
    folder = options.log or run / "serve" / config.serving.request_log.folder
    table = _table(folder, version, options.until, config.monitor.trend_days * SECONDS_PER_DAY)
    journal = folder.parent / JOURNAL
    source = options.events or (journal if journal.is_file() else None)
    events = read_later_events(source, options.timestamp_unit) if source else []
    offline = OfflineFeatures(run, events, _users(options.users, run))
    if source and source.suffix == ".db":
        check_whole(source, offline.as_of)
    log = LoggedRequests.of(table)
    if options.reference:
        reference = logged_reference(options.reference, run, offline, config.monitor)
    else:
        k = max(map(len, log.slate_ids), default=1) or 1
        reference = training_reference(run, version, None, offline, config.monitor, k)
    found = monitored(log, failed_sources(table), offline, events, reference, config.monitor)
    out = options.out or run / "monitor"
    out.mkdir(parents=True, exist_ok=True)
    told = {"run": str(run), "log": str(folder), "events": str(source) if source else None, "num_events": len(events)}
    write_report(told | document(found), out / DOCUMENT)
    write_monitor_page(found, f"Monitor of {run.name}", out / PAGE)
    write_prometheus(found, out / PROMETHEUS)
    _tell(found, source, out / PAGE)
    return STATUS[found.status]


def _table(folder: Path, version: Path, until: str | None, trend_seconds: float):
    """The log's rows of the run's release, as far back as days are shown."""
    from pipelines.monitor.logged_requests import COLUMNS, of_release
    from pipelines.monitor.monitored import release_of
    from pipelines.request_log_table import request_log_table, unix_seconds

    end = _moment(until) if until else None
    times = of_release(request_log_table(folder, ["received", "arm", "release"], None, end), release_of(version))
    newest = int(unix_seconds(times["received"]).max())
    return of_release(request_log_table(folder, COLUMNS, newest - trend_seconds, end), release_of(version))


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"--until must be a time in ISO 8601, such as 2026-05-01T06:00, got {text!r}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _users(path: Path | None, run: Path):
    """The users as they are now, in the columns of the run's raw table; None for that very table."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if path is None:
        return None
    raw = pq.read_schema(run / "etl" / "raw" / "users.parquet")
    needed = ", ".join(raw.names)
    if not path.is_file():
        raise MonitorError(f"{path}: there is no such file; --users needs a table with {needed}")
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            types = {field.name: field.type for field in raw if not pa.types.is_nested(field.type)}
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
        if missing := [name for name in raw.names if name not in table.column_names]:
            raise MonitorError(
                f"{path}: has no column {missing[0]!r}; needs {needed}, has {', '.join(table.column_names)}"
            )
        return table.select(raw.names).cast(raw.remove_metadata())
    except pa.ArrowException as error:
        raise MonitorError(f"{path}: cannot be read as {needed} of the types in the run's table ({error})") from error


def _tell(found, source: Path | None, page: Path) -> None:
    """What a scheduler's log should have."""
    window, skew = found.window, found.skew
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (found.begin, found.end))
    print(f"window    {begin} to {end} UTC, {len(window):,} requests; events: {source or 'none given'}")
    print(f"reference {found.reference.origin}")
    print(
        f"skew      {skew.num_compared:,} requests compared, {skew.num_differing:,} with a feature that the events do "
        f"not give, {skew.num_behind:,} behind the events"
    )
    for cause in found.causes:
        print(f"{cause.kind}{f' {cause.subject}' if cause.subject else ''}: {cause.text}")
        print(f"          {cause.action}")
        if len(cause.findings) > 1:
            print(f"          with it: {len(cause.findings) - 1} more, see the page")
    print(f"status    {found.status}; {page}")
