"""The page of a run: its numbers are those of the artifacts, it stands alone, and it needs no whole run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.report import ReportError, write_run_report
from pipelines.shown_values import interval, memory, seconds

EVIL = '<script>alert("x")</script>'


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, edit: Callable[[Any], None]) -> None:
    document = read(path)
    edit(document)
    path.write_text(json.dumps(document))


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, int | float):
        yield float(value)


def shown(*documents: Any) -> set[str]:
    """Every number of the documents as a page shows it."""
    return {form.format(one) for document in documents for one in numbers(document) for form in ("{:.4f}", "{:+.4f}")}


def test_every_number_of_the_quality_is_one_of_the_evaluation(evaluated, read_page):
    page = read_page(write_run_report(evaluated))
    report = read(evaluated / "evaluation.json")
    others = [read(evaluated / stage / "manifest.json")["metrics"] for stage in ("index", "ranking", "retrieval")]
    curves = [read(evaluated / stage / "learning_curve.json") for stage in ("ranking", "retrieval")]
    assert len(page.decimals) > 200
    assert page.decimals <= shown(report, read(evaluated / "config.json"), *others, *curves)
    for stage in ("slate", "candidates"):
        rows = page.rows(f"{stage}, by system")
        for system, stages in report["systems"].items():
            name = {"cascade": "Cascade", "unranked": "Cascade, unranked"}.get(system, system.replace("_", " "))
            assert rows[name] == {metric: interval(one) for metric, one in stages[stage].items()}


def test_the_summary_names_the_best_baseline_and_what_is_not_measured(evaluated, read_page):
    text = read_page(write_run_report(evaluated)).text
    systems = read(evaluated / "evaluation.json")["systems"]
    of_all = {name: one["slate"]["ndcg@10"] for name, one in systems.items() if name not in ("cascade", "unranked")}
    best = max(of_all, key=lambda name: of_all[name]["mean"])
    assert f"{best.replace('_', ' ')} {interval(of_all[best])}" in text
    assert "cascade evaluate --stage candidates --run RUN" in text and "the quality is not measured yet" not in text


def test_times_memory_and_hashes_are_those_of_the_manifests(evaluated, read_page):
    change(evaluated / "etl" / "manifest.json", lambda one: one.update(peak_memory_bytes=3 * 2**30, commit="c0ffee"))
    page = read_page(write_run_report(evaluated))
    (rows,) = [rows for _, rows in page.tables if rows[0][:2] == ["stage", "time"]]
    for row in rows[1:]:
        manifest = read(evaluated / row[0] / "manifest.json")
        peak = manifest.get("peak_memory_bytes")
        assert row[1:3] == [seconds(manifest["seconds"]), "–" if peak is None else memory(peak)]
        assert manifest["content_hash"] in page.text
    assert rows[1][2] == "3.00 GiB" and "c0ffee" in page.text


def test_the_sources_show_what_training_found(evaluated, read_page):
    metrics = read(evaluated / "retrieval" / "manifest.json")["metrics"]
    rows = read_page(write_run_report(evaluated)).rows("What each source finds alone, and its weight in the merge")
    for name, recall in metrics["source_recall"].items():
        weight = metrics["source_weights"].get(name)
        shown_weight = "–" if weight is None else f"{weight:.4f}"
        assert list(rows[name.replace("_", " ")].values()) == [f"{recall:.4f}", shown_weight]


def test_the_configuration_shows_differences_first_and_then_every_key(evaluated, read_page):
    page = read_page(write_run_report(evaluated))
    rows = page.rows("What differs from the defaults")
    assert rows["retrieval.two_tower.embedding_dim"] == {"value": "16", "default": "64"}
    assert "seed" not in rows and "ranking.network.model" not in rows
    assert page.text.index("What differs from the defaults") < page.text.index("ranking.network.model")


def test_a_page_of_impressions_shows_quality_and_calibration_of_the_evaluation(clicks, read_page):
    page = read_page(write_run_report(clicks))
    report = read(clicks / "evaluation.json")
    rows = page.rows("By system")
    for system, name in (("cascade", "Cascade"), ("lightgbm_trees", "lightgbm trees")):
        assert rows[name]["AUC"] == interval(report["systems"][system]["auc"])
        assert rows[name]["log loss"] == interval(report["systems"][system]["log_loss"])
    others = [read(clicks / name) for name in ("config.json", "ranking/manifest.json", "ranking/learning_curve.json")]
    assert page.decimals <= shown(report, *others)
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert any(label.startswith("share clicked by probability said") for label in labels)
    assert "Index" not in page.text and "Quality by cohort" not in page.text


@pytest.mark.parametrize("kind", ["evaluated", "clicks"])
def test_the_page_fetches_nothing_and_every_figure_has_its_text(kind, request, read_page):
    page = read_page(write_run_report(request.getfixturevalue(kind)))
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg":
            assert attributes["role"] == "img" and len(attributes["aria-label"] or "") > 20
    assert "url(" not in page.source.replace("url(#", "")
    assert "default-src 'none'" in page.source and "prefers-color-scheme: dark" in page.source


def test_equal_runs_give_equal_bytes_wherever_they_stand(evaluated, tmp_path):
    first = write_run_report(evaluated).read_bytes()
    other = Path(shutil.copytree(evaluated, tmp_path / "elsewhere" / evaluated.name))
    assert write_run_report(evaluated).read_bytes() == first == write_run_report(other).read_bytes()


def test_a_run_without_evaluation_says_which_command_measures_it(small_run, tmp_path, read_page):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    page = read_page(write_run_report(run))
    assert "cascade evaluate --run RUN" in page.text and "`" not in page.text
    assert "Quality on the test users" not in page.text and "Learning curves" in page.text


@pytest.mark.parametrize(
    ("key", "title"),
    [("cohorts", "Quality by cohort"), ("served", "Quality on the test users")],
)
def test_an_evaluation_older_than_a_section_says_so_in_its_place(evaluated, read_page, key, title):
    change(evaluated / "evaluation.json", lambda one: one.pop(key))
    page = read_page(write_run_report(evaluated))
    assert title in page.text and f"has no '{key}'" in page.text and "cascade evaluate again" in page.text
    assert "Learning curves" in page.text


def test_a_run_that_stopped_after_its_first_stage_has_a_page(small_run, tmp_path, read_page):
    run = tmp_path / "run"
    shutil.copytree(small_run / "etl", run / "etl")
    shutil.copy(small_run / "config.json", run)
    page = read_page(write_run_report(run))
    assert "not run yet: retrieval, index, ranking, export" in page.text and "Learning curves" not in page.text


def test_one_epoch_is_a_curve(evaluated, read_page):
    for stage in ("retrieval", "ranking"):
        change(evaluated / stage / "learning_curve.json", lambda one: one.__setitem__(slice(1, None), []))
    labels = [one["aria-label"] or "" for tag, one in read_page(write_run_report(evaluated)).tags if tag == "svg"]
    assert any(label.startswith("retrieval: loss") for label in labels)


def test_hostile_names_are_text(evaluated, read_page):
    def rename(profile: Any) -> None:
        items = profile["tables"]["items"]["columns"]
        items[EVIL] = items.pop("colour_group_name")
        profile["tables"][EVIL] = profile["tables"].pop("users")

    def rename_system(report: Any) -> None:
        for key in ("systems", "baselines", "cascade_minus"):
            report[key][EVIL] = report[key].pop("popularity")
        for cohorts in (report["cohorts"],):
            for systems in cohorts.values():
                systems[EVIL] = systems.pop("popularity")
        for key in ("users_by_history", "items_by_popularity"):
            for cohort in report[key].values():
                cohort["recall"][EVIL] = cohort["recall"].pop("popularity")

    change(evaluated / "etl" / "profile.json", rename)
    change(evaluated / "evaluation.json", rename_system)
    change(evaluated / "config.json", lambda one: one["export"]["online_store"].update(redis=EVIL))
    page = read_page(write_run_report(evaluated))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 4 and json.dumps(EVIL) in page.text


def test_what_does_not_belong_together_is_said(evaluated, read_page):
    change(evaluated / "evaluation.json", lambda one: one["protocol"].update(export_content_hash="another"))
    assert "quality was measured with another export artifact" in read_page(write_run_report(evaluated)).text


def test_an_index_shows_every_setting_that_was_tried(evaluated, read_page):
    names = ("recall_at_100_against_exact", "least_recall", "speedup_over_exact")
    tried = [
        {"kind": "hnsw", "parameters": {"ef_search": breadth}, **dict(zip(names, found, strict=True))}
        for breadth, *found in ((100, 0.91, 0.9, 9.0), (150, 0.995, 0.985, 7.0))
    ]
    chosen = {"kind": "hnsw", "parameters": {"ef_search": 150}, "num_queries": 75, "tried": tried}
    change(evaluated / "index" / "manifest.json", lambda one: one["metrics"].update(chosen))
    page = read_page(write_run_report(evaluated))
    caption = next(caption for caption, _ in page.tables if caption.startswith("From narrow to broad"))
    assert page.rows(caption)["hnsw, ef_search 150"] == {
        "recall@100": "0.9950",
        "less two errors": "0.9850",
        "times exact's speed": "7.0",
    }


def test_the_command_names_the_page(evaluated, capsys):
    assert main(["report", str(evaluated)]) == 0
    assert capsys.readouterr().out == f"report: {evaluated / 'report.html'}\n"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(ReportError, match="there is no such run"):
        write_run_report(tmp_path)
    assert main(["report", str(tmp_path / "nothing")]) == 1
    assert "there is no such run; `cascade run --out" in capsys.readouterr().err
