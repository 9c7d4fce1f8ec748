"""The command line: `cascade COMMAND ...`, also `python -m pipelines`. Heavy imports wait for a command."""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_STAGES = ("etl", "retrieval", "index", "ranking", "export")
_RESUMING = ("demo", "run", "refresh", *_STAGES, "tune")
_OVERRIDES = "--SECTION.KEY VALUE overrides any key of the configuration; `cascade keys` lists them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: 0 if it succeeded, 1 if it failed with a message on stderr, 2 if the command line is wrong; a command may
        have other numbers, which its help lists.
    """
    os.environ.setdefault("DASK_DATAFRAME__QUERY_PLANNING", "False")  # Merlin 23.8 needs the legacy dataframe
    parser = command_line()
    options, rest = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if rest and not options.takes_overrides:
        parser.error(f"{options.command} does not know {' '.join(rest)}")
    options.overrides = rest
    logging.captureWarnings(True)  # the libraries' warnings are for those who change Cascade: its tests fail on them
    try:
        return getattr(importlib.import_module(f"pipelines.{options.module}"), options.action)(options) or 0
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if options.resumes else ""
        print(f"\ncascade: interrupted{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `cascade keys | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from features.errors import CascadeError

        if not isinstance(error, CascadeError | PermissionError | FileExistsError | NotADirectoryError):
            raise  # a defect keeps its traceback
        print(f"cascade {options.command}: {error}", file=sys.stderr)
        return 1


def command_line() -> argparse.ArgumentParser:
    """The parser, without heavy imports."""
    parser = argparse.ArgumentParser(prog="cascade", description="From interaction logs to live recommendations.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name: str, text: str, *, overrides: bool = False, module: str = "commands") -> argparse.ArgumentParser:
        epilog = _OVERRIDES if overrides else None
        added = commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False)
        added.set_defaults(takes_overrides=overrides, module=module, action=name, only=None, resumes=name in _RESUMING)
        return added

    def run_folder(of: argparse.ArgumentParser, out: str | None = "the same as --run") -> None:
        of.add_argument("--run", type=Path, metavar="FOLDER", help="the run's folder (default: the last run's)")
        if out:
            of.add_argument("--out", type=Path, help=out)

    added = command("demo", "a made world through every stage, Triton included, in a few minutes", overrides=True)
    added.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (default: runs/demo)")
    added = command("init", "write a commented configuration for your own tables")
    added.add_argument("--out", type=Path, default=Path("cascade.toml"), help="file to write (default: cascade.toml)")
    added = command("run", "all stages: logs to a model repository for Triton", overrides=True)
    _config_and_out(added)
    _cluster(added)
    for stage in _STAGES:
        added = command(stage, f"the stage {stage} alone, from the artifacts of the stages before it", overrides=True)
        added.set_defaults(action="run", only=stage)
        _config_and_out(added)
        if stage == "etl":
            _cluster(added)
            added.add_argument(
                "--append",
                metavar="LOGS",
                help="later logs behind those of the run: a file of interactions, or a folder; what has an id keeps it",
            )
    added = command(
        "refresh",
        "a new run from the live one and later logs, measured beside it, and brought live if no guard stops it",
        overrides=True,
        module="refresh_commands",
    )
    added.add_argument("run", type=Path, metavar="RUN", help="folder of the run that is live; it stays as it is")
    added.add_argument(
        "--append",
        required=True,
        action="append",
        metavar="LOGS",
        help="the logs that came since: a file of interactions, or a folder; several in the order of time, each with "
        "its own --append",
    )
    added.add_argument("--out", type=Path, required=True, metavar="NEW_RUN", help="folder of the new run")
    _served_run(added)
    added.add_argument(
        "--no-deploy", dest="deploy", action="store_false", help="measure and judge, and leave what is live as it is"
    )
    run_folder(command("serve", "serve a run with Triton until interrupted", overrides=True, module="serving_commands"))

    added = command(
        "loadtest",
        "load on a server of the run, and what callers feel of it: latency from the moment a call was meant to be sent",
        overrides=True,
        module="loadtest_commands",
    )
    run_folder(added)
    added.add_argument(
        "--url", type=_host_and_port, help="host:port of gRPC (default: the run's server, or one for it)"
    )
    load = added.add_mutually_exclusive_group()
    load.add_argument("--rate", type=_positive, help="calls a second, sent whether or not earlier ones were answered")
    load.add_argument(
        "--capacity-share",
        type=_positive,
        metavar="SHARE",
        help="measure for 10 s what 32 callers get through, then send so much of it as --rate would",
    )
    load.add_argument(
        "--callers", type=int, default=1, help="callers who wait for each reply before they call again (default: 1)"
    )
    added.add_argument(
        "--arrivals", choices=("poisson", "bursty"), default="poisson", help="of calls that are sent at a rate"
    )
    added.add_argument("--duration", type=_positive, default=10.0, metavar="SECONDS", help="(default: 10)")
    added.add_argument(
        "--users-per-call",
        default="1",
        metavar="USERS",
        help="a number; or zipf or lognormal, heavy-tailed and cut at export.max_batch_size (default: 1)",
    )
    added.add_argument("--k", type=int, default=20, help="items per user (default: 20)")
    added.add_argument("--exclude", type=int, default=0, help="most items that a user excludes (default: 0)")
    added.add_argument("--timeout", type=_positive, default=5.0, metavar="SECONDS", help="of a call (default: 5)")
    added.add_argument("--seed", type=int, default=1, help="the same seed, the same calls and times (default: 1)")
    added.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    added = command(
        "deploy",
        "bring a run's export live on a running server, beside what is live or instead",
        module="rollout_commands",
    )
    added.add_argument("run", type=Path, metavar="RUN", help="folder of the run whose export is deployed")
    how = added.add_mutually_exclusive_group()
    how.add_argument("--canary", type=_share, metavar="SHARE", help="answer only this share of the users from it, 0..1")
    how.add_argument(
        "--shadow",
        type=_share,
        nargs="?",
        const=1.0,
        metavar="SHARE",
        help="answer nobody from it: ask it too, for this share of the users (default: 1), and log what it would say",
    )
    added.add_argument(
        "--experiment", help="name in the request log; users are assigned by it and their id (default: the release's)"
    )
    _served_run(added)
    _served_run(command("rollback", "return to what was live before the last deployment", module="rollout_commands"))
    added = command("deployments", "what is live, and what a rollback returns to", module="rollout_commands")
    _served_run(added)
    added.add_argument("--json", action="store_true", help="as one JSON object")

    added = command(
        "cache",
        "build: make every user's slate, for when a part of the request path is down or for serving without it",
        overrides=True,
        module="cache_commands",
    )
    added.add_argument("action_", metavar="ACTION", choices=("build",), help="build")
    run_folder(added)
    added.add_argument("--k", type=int, default=100, help="items of a slate, at most 1000 (default: 100)")
    added.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes, each of which starts its own copy of the pipeline: for very many users (default: 1)",
    )

    added = command(
        "recommend",
        "ask for slates: a server, or in process the same graph with --local; or write those of many users to a file",
    )
    run_folder(
        added,
        "with --all or --users-from, the .parquet file to write, with the columns user_id, rank, item_id, score and "
        "source and a row an item, a user's items together and best first; a file that is there is replaced when the "
        "last user is in the new one. Otherwise the same as --run",
    )
    who = added.add_mutually_exclusive_group(required=True)
    who.add_argument("--users", help="user ids, separated by commas")
    who.add_argument("--all", action="store_true", help="every user of the run, in process, into --out FILE.parquet")
    who.add_argument(
        "--users-from",
        type=Path,
        metavar="FILE",
        help="users one a line, or the column user_id of a .parquet file, in process, into --out FILE.parquet; one who "
        "stands there twice is answered twice",
    )
    added.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes for --all and --users-from, each of which starts its own copy of the pipeline: for very many "
        "users (default: 1)",
    )
    added.add_argument("--k", type=int, default=10, help="items per user, at most 1000 (default: 10)")
    added.add_argument("--exclude", default="", help="item ids never to show, separated by commas")
    added.add_argument(
        "--timestamp", type=int, help="Unix seconds of the request (default: when the features were made)"
    )
    added.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    added.add_argument("--url", type=_host_and_port, help="host:port of the server (default: the run's)")
    added.add_argument("--local", action="store_true", help="in process, without a server")
    added.add_argument("--json", action="store_true", help="one JSON object a user instead of a table")

    added = command(
        "events",
        "send new interactions to a running server: the users' next slates reflect them; sending again does no harm",
        module="events_commands",
    )
    added.add_argument("action", metavar="push", choices=("push",))
    added.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=".parquet, .csv, or JSON lines (- reads them from standard input as they come), with the columns "
        "event_id, user_id, item_id and timestamp; further columns are attributes of the interaction: "
        "its categories and price",
    )
    run_folder(added)
    added.add_argument("--attributes", help="further columns to send, separated by commas (default: all)")
    added.add_argument(
        "--timestamp-unit", choices=("s", "ms", "us", "iso8601"), default="s", help="of the column (default: s)"
    )
    added.add_argument("--batch-size", type=int, default=256, help="events a call (default: 256)")
    added.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    added.add_argument("--url", type=_host_and_port, help="host:port of the server (default: the run's)")

    added = command("embeddings", "write the vectors of users or items to a .parquet file")
    added.add_argument("entity", choices=("users", "items"))
    run_folder(added, None)
    added.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write, with the columns user_id or item_id, and vector; one that is there is replaced. Its "
        "metadata says, under the key cascade, which model the vectors are from and how they are compared",
    )
    added = command("similar", "the items nearest to an item, by what it is like and not by how much it is sold")
    run_folder(added, None)
    added.add_argument("--item", required=True, metavar="ID", help="item ids, separated by commas")
    added.add_argument("--k", type=int, default=10, help="similar items per item (default: 10)")
    added.add_argument("--json", action="store_true", help="one JSON object an item instead of a table")

    added = command(
        "explore",
        "a page to look at users and their slates: why an item is there or not, and what would change it",
        overrides=True,
        module="explore_commands",
    )
    added.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run's folder (default: the last run's)")
    added.add_argument("--against", type=Path, metavar="RUN_B", help="another run, whose slates stand beside")
    added.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, for this machine)"
    )
    added.add_argument("--port", type=int, default=8090, help="port of the page; 0 takes a free one (default: 8090)")
    added.add_argument("--images", type=Path, metavar="FOLDER", help="pictures: <item id>.jpg, .png or .webp")
    added.add_argument("--open", action="store_true", help="open the browser")

    added = command(
        "monitor",
        "what was served against what the run was trained on: drift, train/serve skew, what is shown and clicked, and "
        "the likely cause. Exit status: 0 all is well, 3 something is beyond a threshold of [monitor], 4 too few "
        "requests to say",
        overrides=True,
        module="monitor_commands",
    )
    added.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run's folder (default: the last run's)")
    added.add_argument(
        "--log", type=Path, metavar="FOLDER", help="the request log (default: serve/requests of the run)"
    )
    added.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="what the users did since the run's features were made: .parquet, .csv or JSON lines with user_id, "
        "item_id and timestamp, or a journal events.db (default: the one beside the log, if it is there)",
    )
    added.add_argument(
        "--timestamp-unit", choices=("s", "ms", "us", "iso8601"), default="s", help="of --events (default: s)"
    )
    added.add_argument(
        "--users",
        type=Path,
        metavar="FILE",
        help="the users as they are now, .parquet or .csv with the columns of the run's etl/raw/users.parquet "
        "(default: that file)",
    )
    added.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="a request log of good days to compare with (default: the visits that the run was trained on)",
    )
    added.add_argument(
        "--until", metavar="TIME", help="end of the window, ISO 8601 in UTC (default: the newest request)"
    )
    added.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where monitor.html, monitor.json and cascade_monitor.prom are written (default: monitor in the run's "
        "folder)",
    )

    added = command(
        "rank", "write the ranker's score of each pair of user and item in a file, or the click probability of each row"
    )
    run_folder(added, None)
    added.add_argument(
        "--in",
        dest="pairs",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .parquet file with the columns user_id, item_id and, if each pair is to be scored as of a moment, "
        "timestamp (Unix seconds); for impressions, rows as the run's log has them, with or without the label",
    )
    added.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".parquet file to write: the pairs by user and rank, with score, rank and source; for impressions line, "
        "probability and problem, row by row. A file that is there is replaced when the last row is in the new one",
    )

    added = command("importance", "how much the ranker relies on each feature: what it loses when that is shuffled")
    run_folder(added, None)
    added.add_argument("--out", type=Path, metavar="FILE", help="JSON to write (default: importance.json of the run)")
    added.add_argument("--repeats", type=int, default=10, help="shuffles of each feature (default: 10)")
    added.add_argument(
        "--max-rows", type=int, default=20_000, help="most impressions, or lists, drawn at random (default: 20000)"
    )
    added.add_argument("--seed", type=int, default=1, help="seed of draw and shuffles (default: 1)")

    added = command(
        "evaluate", "measure the served pipeline beside tuned baselines, on the test period", overrides=True
    )
    run_folder(added)
    added.add_argument(
        "--stage",
        choices=("candidates",),
        help="only the candidates, merged and of each source, in process and with more baselines (default: as served)",
    )
    added = command(
        "tune",
        "search for the settings of a stage that do best on what it was not trained on: recall of candidates, log "
        "loss of impressions, NDCG of ranked candidates; it can be stopped and goes on, and keeps its trials in the "
        "run's folder tune",
        overrides=True,
    )
    added.add_argument("stage", choices=("retrieval", "ranking"))
    _config_and_out(added)
    added.add_argument("--trials", type=int, default=30, help="trials in all, earlier ones counted (default: 30)")
    added.add_argument(
        "--timeout-minutes", type=float, help="begin no trial after so many minutes (default: none)", metavar="MINUTES"
    )
    added = command(
        "report",
        "write the page that shows a run, or one that shows how two runs differ",
        module="report_commands",
    )
    added.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run's folder (default: the last run's)")
    added.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("RUN_A", "RUN_B"),
        help="two runs on the same logs: their configurations, quality with significance, times and indexes",
    )
    added.add_argument(
        "--out", type=Path, metavar="FILE", help="page of the comparison (default: comparison.html of RUN_B)"
    )
    added = command("profile", "what the logs hold: nulls, ranges, duplicates, what was set aside")
    run_folder(added)
    added.add_argument("--html", type=Path, help="write a page with plots here (default: profile.html of the run)")
    added = command(
        "synth",
        "write made logs of the H&M or Criteo shape, or impressions whose click probabilities are known; of any size",
    )
    added.add_argument("shape", choices=("hm", "criteo", "clicks"))
    added.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or not there")
    added.add_argument("--rows", type=int, help="transactions or impressions")
    added.add_argument("--users", type=int, help="customers (hm), users (clicks)")
    added.add_argument("--items", type=int, help="articles (hm), items (clicks)")
    added.add_argument("--format", help="csv, csv.gz or parquet (hm, clicks); tsv, tsv.gz or parquet (criteo)")
    added.add_argument("--seed", type=int, default=1, help="the same seed, the same bytes (default: 1)")
    _ope(
        command(
            "ope",
            "what another policy would have earned on logged requests, by their propensities; with intervals",
            overrides=True,
            module="ope.command",
        )
    )
    command("keys", "list every key of the configuration with its default")
    return parser


def _ope(added: argparse.ArgumentParser) -> None:
    added.add_argument("--log", type=Path, metavar="FOLDER", help="request log of a run that was served with sampling")
    added.add_argument("--policy", type=Path, metavar="RUN", help="folder of the run whose slates are evaluated on it")
    added.add_argument("--ab", action="store_true", help="compare the arms of the log's experiment instead")
    added.add_argument("--experiment", metavar="NAME", help="of --ab (default: the only one)")
    added.add_argument(
        "--teams",
        type=Path,
        metavar="FILE",
        help="compare two interleaved rankings instead: .parquet or .csv with request_id, user_id, item_id and team "
        "(1 or 2)",
    )
    added.add_argument(
        "--user-hours",
        type=_positive,
        default=24.0,
        metavar="HOURS",
        help="after a user's first request that count in a comparison (default: 24)",
    )
    added.add_argument(
        "--planned-users",
        type=int,
        default=10_000,
        metavar="NUMBER",
        help="at which intervals of a comparison are narrowest, chosen before looking (default: 10000)",
    )
    added.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="what users did: .parquet, .csv or JSON lines with user_id, item_id and timestamp; an event is a "
        "reward of 1 for the last logged request before it that showed the user the item",
    )
    added.add_argument(
        "--window-hours", type=_positive, default=24.0, help="from a request to its events (default: 24)"
    )
    added.add_argument(
        "--timestamp-unit", choices=("s", "ms", "us", "iso8601"), default="s", help="of the events (default: s)"
    )
    added.add_argument(
        "--rewards",
        type=Path,
        metavar="FILE",
        help="in place of events: .parquet or .csv with request_id, user_id, item_id and reward",
    )
    added.add_argument(
        "--places", default="1,3,10", help="so many first places of a slate are evaluated together (default: 1,3,10)"
    )
    added.add_argument(
        "--obd", type=Path, metavar="FOLDER", help="Open Bandit Dataset: each of its policies by the other's log"
    )
    added.add_argument("--level", type=_share, default=0.95, help="of the intervals (default: 0.95)")
    added.add_argument("--seed", type=int, default=1, help="of dealing rounds into folds (default: 1)")
    added.add_argument("--out", type=Path, metavar="FILE", help="JSON to write (default: none)")


def _cluster(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--cluster",
        default="threads",
        help="where features are computed: threads (default), local:N worker processes, cuda, or tcp://HOST:PORT of a "
        "Dask scheduler; the result is the same",
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def _served_run(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--to", type=Path, metavar="SERVED_RUN", help="folder of the run that is served (default: that served last)"
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and up to 1, as in 0.05, got {text!r}")
    return share


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if "/" in text or not (host and colon and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be host:port, as in 127.0.0.1:8001, got {text!r}")
    return text


def _config_and_out(added: argparse.ArgumentParser) -> None:
    added.add_argument("--config", type=Path, help="TOML file (default: the made world of the demo)")
    added.add_argument("--out", type=Path, required=True, help="folder of the run")


if __name__ == "__main__":
    sys.exit(main())
