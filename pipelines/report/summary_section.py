"""The first screen: what data, what model, how good, and what is not known yet."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.report.blocks import Block, Facts, Section, Warnings
from pipelines.report.clicks_section import HEADLINE, best_click_baseline, click_system, spoken_metric
from pipelines.report.quality_section import best_baseline, headlines, system_name
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import count, interval, moment, percent, seconds


def summary_section(run: RunRecord) -> Section:
    """Facts, and above them what is missing or does not fit."""
    missing = [*run.mismatches(), *_missing(run)]
    blocks: list[Block] = [Warnings(missing)] if missing else []
    return Section("Summary", [*blocks, Facts([*_data(run), *_model(run), *_quality(run), *_cost(run)])])


def _missing(run: RunRecord) -> Iterator[str]:
    if run.unfinished:
        yield f"not run yet: {', '.join(run.unfinished)}; `cascade run --out RUN`, RUN being this run's folder"
        return
    if run.config.etl.serve_state != "before_test" and not run.holds_impressions:
        yield "the served features have seen the test period (etl.serve_state), so the quality cannot be measured"
        return
    if run.evaluation is None:
        yield "the quality is not measured yet: `cascade evaluate --run RUN`, RUN being this run's folder"
    if run.candidates is None and not run.holds_impressions:
        yield "the candidate sources are not measured one by one yet: `cascade evaluate --stage candidates --run RUN`"


def _data(run: RunRecord) -> Iterator[tuple[str, str]]:
    tables = run.profile["tables"]
    rows = ", ".join(f"{count(table['rows'])} {name}" for name, table in tables.items())
    yield "data", f"{run.config.data.adapter}: {rows}"
    metrics = run.metrics("etl")
    if "num_users" in metrics:
        yield "catalogue", f"{count(metrics['num_users'])} users, {count(metrics['num_items'])} items"
    for table in tables.values():
        time = table["columns"].get(table["time_column"]) or {}
        if time.get("min"):
            yield "period", f"{moment(time['min'])} to {moment(time['max'])}"


def _model(run: RunRecord) -> Iterator[tuple[str, str]]:
    retrieval, index, ranking = (run.metrics(stage) for stage in ("retrieval", "index", "ranking"))
    if retrieval:
        weights = retrieval.get("source_weights", {})
        used = ", ".join(name.replace("_", " ") for name, weight in weights.items() if weight > 0)
        width = run.config.retrieval.two_tower.embedding_dim
        yield "retrieval", f"two-tower, vectors of {width}" + (f"; merged from {used}" if used else "")
    if index:
        yield "index", f"{index['kind']} over {count(index['num_vectors'])} vectors"
    if ranking:
        yield "ranking", f"{run.config.ranking.network.model}{_trusted(ranking.get('trusted_share'))}"


def _trusted(share: float | None) -> str:
    """How far the ranker may depart from retrieval's order, if that is not all the way."""
    if share == 0:
        return (
            "; it changes nothing: on users held out its gain was not beyond chance, so slates keep retrieval's order"
        )
    return "" if share is None or share == 1 else f"; {percent(share)} of its say, as far as its gain is beyond chance"


def _quality(run: RunRecord) -> Iterator[tuple[str, str]]:
    report = run.evaluation
    if report is None:
        return
    if run.holds_impressions:
        best, spoken = best_click_baseline(report), spoken_metric(HEADLINE)
        yield spoken, interval(report["systems"]["cascade"][HEADLINE])
        if best:
            theirs = report["systems"][best][HEADLINE]
            yield f"best baseline's {spoken}, as chosen on the test part", f"{click_system(best)} {interval(theirs)}"
            yield "difference", interval(report["cascade_minus"][best][HEADLINE], signed=True)
        return
    for stage, metric in headlines(report):
        best = best_baseline(report, stage, metric)
        yield f"{stage} {metric}", interval(report["systems"]["cascade"][stage][metric])
        if best:
            difference = report["cascade_minus"][best][f"{stage} {metric}"]
            yield (
                f"best baseline's {metric}, as chosen on the test users",
                f"{system_name(best)} {interval(report['systems'][best][stage][metric])}",
            )
            yield "difference", interval(difference, signed=True)


def _cost(run: RunRecord) -> Iterator[tuple[str, str]]:
    yield "time of all stages", seconds(sum(manifest["seconds"] for manifest in run.manifests.values()))
