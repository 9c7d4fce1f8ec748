"""What each command of the command line does; a function a command."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import CascadeError

if TYPE_CHECKING:
    from features.artifact import Artifact

ADDRESSES = "addresses.json"
LATEST = Path("runs/latest")
"""Names the last run's folder, which is the default of the commands that read one."""
SERVED = Path("runs/served")
"""Names the folder of the run that was served last, which is what `deploy` and `rollback` change by default."""


class CommandError(CascadeError):
    """A command was called for something that is not there."""


def run(options: Namespace) -> None:
    """All stages and the run's report, or the one stage that the command names."""
    from pipelines.stages import print_now, run_stages

    config, origin = _load(options)
    if getattr(options, "append", None):
        config = _with_append(config, options)
    remember(options.out)
    unsaid = [f"config     {origin}"]

    def say(line: str) -> None:
        for first in (*unsaid, line):
            print_now(first)
        unsaid.clear()

    with _kept_configuration(options):
        run_stages(config, options.out, options.only, say, getattr(options, "cluster", "threads"))
    if options.only is None:
        from pipelines.report import write_run_report

        print_now(f"{'report':<10} {write_run_report(options.out)}")


def demo(options: Namespace) -> None:
    """Every stage on the made world, a few slates from Triton, and the quality table."""
    from pipelines.config import load_config
    from pipelines.demo import run_demo

    config = load_config(None, options.overrides)
    remember(options.out)
    run_demo(config, options.out)


def init(options: Namespace) -> None:
    """Write the template, never over a file that is there."""
    if options.out.exists():
        raise CommandError(f"{options.out} is there already; give another --out, or remove it")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text((files("pipelines") / "configs" / "template.toml").read_text())
    print(
        f"wrote {options.out}; fill in your files and columns, then: cascade run --config {options.out} --out runs/mine"
    )


def recommend(options: Namespace) -> None:
    """Print the slates of some users, or write those of many."""
    from pipelines.slates import print_json, print_slates, titles

    if options.users is None:
        return _recommend_in_bulk(options)
    if options.out and options.out.suffix == ".parquet":
        raise CommandError(f"--out {options.out} needs --all or --users-from; the run's folder goes to --run")
    if options.processes != 1:
        raise CommandError("--processes needs --all or --users-from")
    users, exclude = listed(options.users), listed(options.exclude)
    if not users:
        raise CommandError(f"--users must name at least one user, got {options.users!r}; separate them by commas")
    asked = {"k": options.k, "exclude": [exclude] * len(users), "timestamp": options.timestamp}
    out = None if options.url and not (options.run or options.out) else _existing_run(options)
    if options.local:
        from ensemble.pipeline import Pipeline
        from ensemble.request import Request

        request = Request.of(users, **asked)
        run = _existing_run(options)
        pipeline = Pipeline.load(repository(run) / "cascade" / "1", _run_config(run).serving)
        replies = [pipeline.recommend(request)]
    else:
        from ensemble.client import RecommendClient

        with RecommendClient(options.url or address(out, options.protocol), options.protocol) as client:
            replies = list(client.recommend_all(users, **asked))
    show = print_json if options.json else print_slates
    title_of = titles(out / "etl" / "items.parquet") if out else {}
    begin = 0
    for reply in replies:
        show(users[begin : begin + len(reply)], reply, title_of)
        begin += len(reply)


def _recommend_in_bulk(options: Namespace) -> None:
    """Write the slates of every user of the run, or of those in a file."""
    from pipelines.batch_recommend import Ask, write_slates
    from pipelines.stages import print_now
    from pipelines.user_list import UserList

    who = "--all" if options.all else "--users-from"
    if options.out is None or options.out.suffix != ".parquet":
        got = f", got --out {options.out}; the run's folder goes to --run" if options.out else ""
        raise CommandError(f"{who} needs --out FILE.parquet for the slates{got}")
    if options.url or options.json:
        raise CommandError(f"{who} asks in process and writes a file: leave out {'--url' if options.url else '--json'}")
    if options.processes < 1:
        raise CommandError(f"--processes must be at least 1, got {options.processes}")
    run = _existing_run(options, out_is_run=False)
    etl, export = _artifact(run, "etl"), _artifact(run, "export")
    users = UserList.open(etl.file("users.parquet"), "raw_id") if options.all else UserList.open(options.users_from)
    config = _run_config(run)
    ask = Ask(options.k, listed(options.exclude), options.timestamp, seed=config.seed)
    about = {"export": export.content_hash}
    begun = time.monotonic()
    version_folder = repository(run) / "cascade" / "1"
    written = write_slates(version_folder, users, ask, options.out, about, options.processes, config.serving)
    print_now(f"wrote {options.out}: {written.summary(options.k, time.monotonic() - begun)}")


def embeddings(options: Namespace) -> None:
    """Write the vectors of users or items."""
    from pipelines.embeddings import write_embeddings

    retrieval = _artifact(_existing_run(options, out_is_run=False), "retrieval")
    num_rows, width = write_embeddings(retrieval, options.entity, options.out)
    print(f"wrote {options.out}: {num_rows:,} {options.entity}, vectors of {width} numbers")


def rank(options: Namespace) -> None:
    """Write scores of pairs, or click probabilities."""
    from pipelines.stages import print_now

    run = _existing_run(options, out_is_run=False)
    if options.out.suffix != ".parquet":
        raise CommandError(f"--out must name a .parquet file for the scores, got {options.out}")
    begun = time.monotonic()
    if _has_impressions(run):
        from features.artifact import open_artifact
        from pipelines.rank_clicks import write_probabilities

        adapter = _run_config(run).data.adapter
        if adapter != "criteo":
            raise CommandError(
                f'{run}: was made from data.adapter = "{adapter}"; of impressions, `rank` reads those of "criteo": the '
                "others may have features as of a moment, which a file of rows does not hold"
            )
        etl = open_artifact(run / "etl", "etl")
        ranking = open_artifact(run / "ranking", "ranking", inputs=[etl])
        about = {"ranking": ranking.content_hash}
        foretold = write_probabilities(etl, ranking, options.pairs, options.out, about)
        print_now(f"wrote {options.out}: {foretold.summary(time.monotonic() - begun)}")
        if foretold.num_bad:
            shown = "; ".join(foretold.named)
            print(f"no probability for {foretold.num_bad:,} rows that cannot be read: {shown}", file=sys.stderr)
        return
    from pipelines.rank import write_scores

    about = {"export": _artifact(run, "export").content_hash}
    version_folder = repository(run) / "cascade" / "1"
    scored = write_scores(version_folder, options.pairs, options.out, about, _run_config(run).serving)
    print_now(f"wrote {options.out}: {scored.summary(time.monotonic() - begun)}")


def importance(options: Namespace) -> None:
    """Print and write what the ranker relies on."""
    from features.artifact import open_artifact
    from pipelines.importance import importance_of_run, print_importance, write_importance

    run = _existing_run(options, out_is_run=False)
    etl = open_artifact(run / "etl", "etl")
    ranking = open_artifact(run / "ranking", "ranking")
    report = importance_of_run(etl, ranking, options.repeats, options.max_rows, options.seed)
    print_importance(report)
    out = options.out or run / "importance.json"
    write_importance(report, out)
    print(f"wrote {out}")


def similar(options: Namespace) -> None:
    """Print the items that are like some."""
    from pipelines.similar import print_neighbours, print_neighbours_json, similar_items
    from pipelines.slates import titles

    run = _existing_run(options, out_is_run=False)
    items = listed(options.item)
    if not items:
        raise CommandError(f"--item must name at least one item, got {options.item!r}; separate them by commas")
    found = similar_items(_artifact(run, "retrieval"), items, options.k)
    if options.json:
        print_neighbours_json(found)
    else:
        print_neighbours(found, titles(run / "etl" / "items.parquet"))


def tune(options: Namespace) -> None:
    """Search for the best settings of a stage."""
    from features.artifact import open_artifact
    from pipelines.stages import print_now
    from pipelines.tune import Budget

    config, origin = _load(options)
    budget = Budget(options.trials, options.timeout_minutes)
    out = options.out
    etl = open_artifact(out / "etl", "etl") if options.stage == "ranking" else _artifact(out, "etl")
    print_now(f"config     {origin}")
    if options.stage == "retrieval":
        from pipelines.tune_retrieval import tune_retrieval

        tune_retrieval(config, etl, out, budget, print_now)
        return
    from pipelines.tune_ranking import tune_clicks, tune_lists

    if etl.metrics.get("kind") == "impressions":
        tune_clicks(config, etl, out, budget, print_now)
    else:
        tune_lists(config, etl, open_artifact(out / "retrieval", "retrieval", inputs=[etl]), out, budget, print_now)


def evaluate(options: Namespace) -> None:
    """Ask the served pipeline for every test user, starting a server if none serves the run; or the candidate stage."""
    from ensemble.client import RecommendClient
    from features.artifact import open_artifact
    from pipelines.measure import measure
    from pipelines.report import write_run_report
    from pipelines.stages import NO_USERS

    out = run_folder(options)
    config = saved_config(options, out)
    if config.data.holds_impressions:
        if options.stage:
            raise CommandError(f"{out}: evaluating candidates {NO_USERS}")
        from pipelines.evaluate_clicks import evaluate_clicks

        evaluate_clicks(out / "etl", out / "ranking", config.evaluation, config.ranking, out=out, seed=config.seed)
        print(f"report: {write_run_report(out)}")
        return
    serve_state = open_artifact(out / "etl", "etl").manifest["config"]["serve_state"]
    if serve_state != "before_test":
        raise CommandError(
            f'{out}: etl.serve_state is "{serve_state}": the served features have seen the test period, so '
            "nothing measured on it would be true; run with --etl.serve-state before_test to evaluate"
        )
    config = _without_stock(config)
    if options.stage == "candidates":
        from pipelines.measure_candidates import measure_candidates

        measure_candidates(out, config)
    else:
        with served(out, config) as url, RecommendClient(url, timeout_seconds=60, with_fallback=False) as client:
            measure(client, config, out)
    print(f"report: {write_run_report(out)}")


def profile(options: Namespace) -> None:
    """Print what the logs of a run hold, and write the page with plots."""
    from features.artifact import open_artifact
    from pipelines.etl_stage import PROFILE
    from pipelines.profile_page import print_profile, write_profile_page

    out = run_folder(options)
    document = json.loads(open_artifact(out / "etl", "etl").file(PROFILE).read_text())
    print_profile(document)
    page = options.html or out / "profile.html"
    write_profile_page(document, page)
    print(f"page with plots: {page}")


def synth(options: Namespace) -> None:
    """Write made logs."""
    from pipelines.stages import print_now
    from pipelines.synth import synth as write

    write(
        options.shape, options.out, options.rows, options.users, options.items, options.format, options.seed, print_now
    )


def keys(options: Namespace) -> None:
    """List the configuration's keys."""
    from pipelines.config import keys_of
    from pipelines.reference import shown_default

    for name, _, default, text in keys_of():
        print(f"--{name.replace('_', '-')}  ({shown_default(default)})\n      {text}")


def _load(options: Namespace):
    """The configuration of --config, else what the run folder was made with, else the made world; and which it is."""
    from pipelines.config import load_config, load_saved_config
    from pipelines.stages import CONFIG_FILE

    saved = options.out / CONFIG_FILE
    if options.config is None and saved.is_file():
        return load_saved_config(saved, options.overrides), f"{saved}, which this run was made with"
    return load_config(options.config, options.overrides), str(options.config or "none given: the made world")


def _with_append(config, options: Namespace):
    """The configuration with later logs behind those of the run."""
    from dataclasses import replace

    from features.artifact import MANIFEST

    if config.data.adapter.startswith("synthetic"):
        raise CommandError(
            '--append needs data.adapter = "tables", "hm", "criteo" or "impressions": a made world has no later logs'
        )
    if not (options.out / "etl" / MANIFEST).is_file():
        raise CommandError(f"{options.out}: has no features to append to; run `cascade etl --out {options.out}` first")
    if options.append in config.data.append:
        raise CommandError(
            f"--append {options.append}: is part of this run already (data.append); give the logs that came after it"
        )
    return replace(config, data=replace(config.data, append=(*config.data.append, options.append)))


@contextmanager
def _kept_configuration(options: Namespace) -> Iterator[None]:
    """An append that is refused leaves the run's configuration as it was."""
    from pipelines.stages import CONFIG_FILE

    file = options.out / CONFIG_FILE
    before = file.read_text() if getattr(options, "append", None) else None
    try:
        yield
    except CascadeError:
        if before is not None:
            file.write_text(before)
        raise


def saved_config(options: Namespace, out: Path):
    """The run's configuration; the command line may change only what is read after the stages."""
    from pipelines.config import load_saved_config
    from pipelines.stages import CONFIG_FILE, STAGE_NAMES

    saved = load_saved_config(out / CONFIG_FILE)
    config = load_saved_config(out / CONFIG_FILE, options.overrides)
    made_with = ("seed", "data", *STAGE_NAMES)
    if changed := [name for name in made_with if getattr(config, name) != getattr(saved, name)]:
        raise CommandError(
            f"{out} was made with another value of {' and '.join(changed)} than the command line gives; "
            f"`{options.command}` takes the run as it is: leave it out, or give it to `cascade run`"
        )
    return config


def _run_config(run: Path):
    """The configuration that the run was made with."""
    from pipelines.config import load_saved_config
    from pipelines.stages import CONFIG_FILE

    return load_saved_config(run / CONFIG_FILE)


def _without_stock(config):
    """What can be had today says nothing of the test period."""
    from dataclasses import replace

    from ensemble.filter_config import StockConfig

    filters = replace(config.serving.filters, stock=StockConfig())
    return replace(config, serving=replace(config.serving, filters=filters))


def remember(out: Path) -> None:
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(f"{out}\n")


def remember_served(out: Path) -> None:
    SERVED.parent.mkdir(exist_ok=True)
    SERVED.write_text(f"{out}\n")


def run_folder(options: Namespace, out_is_run: bool = True) -> Path:
    """The folder of --run, else of --out where that names a run, else the last run's."""
    given: list[Path] = [folder for folder in (options.run, options.out if out_is_run else None) if folder]
    if len(given) > 1:
        raise CommandError(f"--run {given[0]} and --out {given[1]} both name the run's folder; give one of them")
    if given:
        return given[0]
    if not LATEST.is_file():
        raise CommandError("no run is known here; give its folder: --run runs/NAME")
    return Path(LATEST.read_text().strip())


def _existing_run(options: Namespace, out_is_run: bool = True) -> Path:
    run = run_folder(options, out_is_run)
    if not run.is_dir():
        raise CommandError(f"{run}: there is no such run; `cascade run --out {run}` makes one")
    return run


def repository(out: Path) -> Path:
    return _artifact(out, "export").path / "repository"


def _has_impressions(run: Path) -> bool:
    from pipelines.stages import CONFIG_FILE

    return (run / CONFIG_FILE).is_file() and _run_config(run).data.holds_impressions


def _artifact(run: Path, stage: str) -> Artifact:
    """A finished stage of a run that has users and items."""
    from features.artifact import open_artifact
    from pipelines.stages import NO_USERS

    if _has_impressions(run):
        raise CommandError(f"{run}: the stage {stage} {NO_USERS}")
    return open_artifact(run / stage, stage)


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def address(out: Path | None, protocol: str) -> str:
    if out and (out / "serve" / ADDRESSES).is_file():
        return json.loads((out / "serve" / ADDRESSES).read_text())[protocol]
    return {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}[protocol]


@contextmanager
def served(out: Path, config) -> Iterator[str]:
    """gRPC address of a server of the run: the one that runs, or one for this call.

    Args:
        config: of serving; only if it is the run's will the server that runs do.
    """
    from dataclasses import replace

    from ensemble.client import RecommendClient, ServerUnavailable
    from ensemble.rollout import prepared_repository
    from ensemble.server import TritonServer

    if (out / "serve" / ADDRESSES).is_file() and config.serving == _run_config(out).serving:
        url = address(out, "grpc")
        try:
            with RecommendClient(url) as client:
                client.recommend(["is anybody there"], k=1)
            print(f"measuring the server at {url}", file=sys.stderr)
            yield url
            return
        except ServerUnavailable:
            pass
    ports = replace(config.serving, http_port=0, grpc_port=0, metrics_port=0)
    own = prepared_repository(out, out / "serve" / "measured", ports)  # whatever else is deployed in `serve`
    with TritonServer(own.folder, out / "serve", ports) as server:
        yield server.grpc_url
