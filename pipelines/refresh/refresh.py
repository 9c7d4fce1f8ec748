"""A refresh from its beginning to what is live: append, train, measure, judge, go live.

Whatever is finished is not done again: the stages skip what is unchanged, and the record says what was measured and
what went live. So the same command goes on where one was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from features.artifact import Artifact
from pipelines.config import CascadeConfig, as_document
from pipelines.etl_stage import DriftError
from pipelines.refresh.begin import begun, refreshed_config
from pipelines.refresh.going_live import check_is_live, went_live
from pipelines.refresh.guards import judged
from pipelines.refresh.measure import measured
from pipelines.refresh.record import FILE, Guard, Record, RefreshError, read_record
from pipelines.refresh.table import print_guards
from pipelines.stages import print_now, run_stages

Say = Callable[[str], None]
_NO_RANKER = "begins anew: its held-out users would be judged by weights that have learned from them"


def refresh(
    run: Path,
    append: Sequence[str],
    out: Path,
    serve_folder: Path | None,
    overrides: Sequence[str] = (),
    say: Say = print_now,
) -> Record:
    """Make a run from the live one and later logs, and bring it live if no guard stops it.

    Args:
        run: the live run, which stays as it is.
        append: the later logs, in the order of time, each as `cascade etl --append` takes it.
        out: folder of the new run.
        serve_folder: of the server that serves the live run; None to deploy nothing.
        overrides: of the configuration, as the command line has them.
    Returns: the record; its state is "deployed", or "passed" where nothing was to be deployed.
    Raises: RefreshError if it cannot be done or a guard stopped it; ConfigError, LogError, ArtifactError and what the
        rollout raises. What was live is live still.
    """
    config = refreshed_config(run, append, overrides)
    if config.data.holds_impressions:
        if serve_folder is not None:
            say(f"{'deploy':<10} a click model has no server here: nothing will be deployed")
        serve_folder = None
    record = begun_or_known(run, config, append, out, serve_folder)
    if record.state == "deployed":
        say(f"{'refresh':<10} {out} was deployed already: {out / FILE}")
        print_guards(record.guards)
        return record
    if record.state != "passed" or record.judged_with != _hash(config):
        _judge(run, config, out, record, say)
    if not config.data.holds_impressions:
        latest = replace(config, etl=replace(config.etl, serve_state="latest"))
        say(f"{'refresh':<10} no guard stops it; now with everything up to the end of the log")
        stages = _timed(record, "going_live", lambda: run_stages(latest, out, say=say))
        if _models(stages) != record.models:
            raise RefreshError(
                f"{out}: its models are not those that were measured, so they do not go live; somebody changed the "
                "folder meanwhile: remove it and refresh again"
            )
    if serve_folder is not None:
        record.deployed = went_live(out, run, serve_folder)
        record.state = "deployed"
        record.write(out)
        say(f"{'deploy':<10} release {record.deployed['release']}: {record.deployed['where']}")
    else:
        say(f"{'refresh':<10} passed, and nothing was deployed")
    return record


def begun_or_known(
    run: Path, config: CascadeConfig, append: Sequence[str], out: Path, serve_folder: Path | None
) -> Record:
    """The record of the new run. Before hours are spent on it, what it shall replace must be live."""
    known = read_record(out)
    if serve_folder is not None and (known is None or known.state in ("begun", "refused")):
        check_is_live(run, serve_folder)
    return begun(run, config, append, out)


def _judge(run: Path, config: CascadeConfig, out: Path, record: Record, say: Say) -> None:
    """Raises: RefreshError if a guard stops it."""
    try:
        stages = _timed(record, "stages", lambda: run_stages(config, out, say=say))
    except DriftError as error:
        record.measurements = {"drift": [asdict(one) for one in error.found]}
    else:
        record.warm_start, record.models = _warm_start(stages), _models(stages)
        known = record.measurements
        say(f"{'measure':<10} both runs on the new run's test period")
        record.measurements = _timed(record, "measuring", lambda: measured(run, out, config, known))
    record.guards = judged(record.measurements, config.refresh)
    stopping = [guard for guard in record.guards if guard.stops]
    record.state, record.judged_with = "refused" if stopping else "passed", _hash(config)
    record.write(out)
    print_guards(record.guards)
    if stopping:
        raise RefreshError(_refusal(run, out, stopping))


def _refusal(run: Path, out: Path, stopping: Sequence[Guard]) -> str:
    lines = [
        f"  {guard.name}: {guard.verdict}"
        + (f", {guard.measured}" if guard.measured else "")
        + f", limit {guard.limit}"
        + (f" ({guard.reason})" if guard.reason else "")
        for guard in stopping
    ]
    return "\n".join(
        [
            f"the new run does not go live, {run} stays as it was. Stopped by",
            *lines,
            f"{out} is kept, {out / FILE} has the numbers. Look into it (docs/refresh.md); if it shall go live all the "
            "same, give the same command with another limit, as in --refresh.max-quality-loss 0.05: nothing is trained "
            "or measured again",
        ]
    )


def _hash(config: CascadeConfig) -> str:
    return hashlib.sha256(json.dumps(as_document(config), sort_keys=True).encode()).hexdigest()


def _models(stages: Mapping[str, Artifact]) -> dict[str, str]:
    """Hash of each model."""
    parts = {"retrieval": "query_encoder.onnx", "ranking": "ranker.onnx"}
    return {
        stages[name].stage: stages[name].manifest["parts"][part]["sha256"]
        for name, part in parts.items()
        if name in stages
    }


def _warm_start(stages: dict[str, Artifact]) -> dict[str, Any]:
    if "retrieval" not in stages:
        started_from = stages["ranking"].metrics["started_from"]
        return {"ranker": "begins anew" if started_from is None else f"from the ranker of vocabulary {started_from}"}
    started = stages["retrieval"].metrics["started_from"]
    trainings = {
        f"two-tower before {moment}": "begins anew" if start is None else f"from the weights before {start}"
        for moment, start in started.items()
    }
    return (trainings or {"two-tower": "begins anew"}) | {"ranker": _NO_RANKER}


def _timed(record: Record, name: str, do: Callable[[], Any]) -> Any:
    begun_at = time.monotonic()
    try:
        return do()
    finally:
        record.seconds[name] = round(record.seconds.get(name, 0.0) + time.monotonic() - begun_at, 1)
