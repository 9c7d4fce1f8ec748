"""Stage `etl` for impressions of any columns: every feature as of its row's moment, against loops over the rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import Tags
from pydantic import TypeAdapter

from features.artifact import Artifact, open_artifact, writing
from features.cluster import IN_PROCESS
from features.config import EtlConfig, ImpressionsConfig
from features.impressions import ConstantLabelError, run
from features.impressions_as_of import as_of_names, derive
from features.logs import DataConfig, LogError
from features.logs.impression_config import ImpressionTableConfig
from features.schema import PADDING, UNSEEN, list_length, load_schema, select
from features.split import PART_NAMES, SplitConfig

SPLIT = SplitConfig(valid_share=0.2, test_share=0.2)
ETL = EtlConfig(split=SPLIT, impressions=ImpressionsConfig(min_frequency=1, smoothing=5.0), list_max_length=3)
NUM_ROWS, LENGTH = 400, 4
Columns = dict[str, np.ndarray]
Make = Callable[..., Artifact]


def log_columns() -> Columns:
    """Few users, items and moments, so that many rows share each; new ones come later."""
    rng = np.random.default_rng(3)
    moment = np.sort(rng.integers(0, 150, NUM_ROWS))
    user = np.minimum(rng.integers(0, 8, NUM_ROWS), 3 + moment // 25)
    item = np.minimum(rng.integers(0, 12, NUM_ROWS), 5 + moment // 20)
    return {
        "moment": moment,
        "user": np.char.add("u", user.astype(str)),
        "item": np.char.add("i", item.astype(str)),
        "label": (rng.random(NUM_ROWS) < 0.3 + 0.04 * item).astype(int),
        "place": rng.choice(["shop", "web"], NUM_ROWS),
        "size": np.round(rng.normal(0, 50, NUM_ROWS), 3),
    }


def config_of(path: Path, columns: Columns, **options: Any) -> DataConfig:
    pq.write_table(pa.table(columns), path)
    described: dict[str, Any] = {
        "path": str(path),
        "label": "label",
        "timestamp": "moment",
        "user_id": "user",
        "item_id": "item",
        "categorical": {"place": "place"},
        "continuous": {"size": "size"},
        "as_of": ("user_id", "item_id", "user_id+place"),
        "history": LENGTH,
        "calendar": True,
    }
    table = TypeAdapter(ImpressionTableConfig).validate_python(described | options)
    return DataConfig(adapter="impressions", impressions=table)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(columns: Columns, before: Artifact | None = None, **options: Any) -> Artifact:
        folder = tmp_path_factory.mktemp("log")
        config = config_of(folder / "log.parquet", columns, **options)
        with writing(folder / "etl", "etl", {}, 0, {}) as writer:
            run(ETL, config.impression_log(SPLIT), 0.01, writer, IN_PROCESS, before)
        return open_artifact(folder / "etl", "etl")

    return made


@pytest.fixture(scope="module")
def columns() -> Columns:
    return log_columns()


@pytest.fixture(scope="module")
def etl(make: Make, columns: Columns) -> Artifact:
    return make(columns)


def examples(etl: Artifact) -> pa.Table:
    """All rows, in order of time, as the log has them."""
    return pa.concat_tables([pq.read_table(etl.files(f"examples/{part}/")[0]) for part in PART_NAMES.values()])


def test_each_part_has_its_rows_in_the_logs_order(etl: Artifact, columns: Columns) -> None:
    moment = columns["moment"]
    valid_from, test_from = etl.metrics["valid_from"], etl.metrics["test_from"]
    expected = [(moment < valid_from).sum(), ((moment >= valid_from) & (moment < test_from)).sum()]
    assert [etl.metrics["num_impressions"][part] for part in ("train", "valid")] == expected
    assert examples(etl)["label"].to_pylist() == columns["label"].tolist()


def test_counts_and_rates_are_those_of_the_earlier_rows(etl: Artifact, columns: Columns, tmp_path: Path) -> None:
    log = config_of(tmp_path / "log.parquet", columns).impression_log(SPLIT)
    files = {part: etl.files(f"raw/{part}/") for part in PART_NAMES.values()}
    derived = derive(log.columns, files, 5.0, tmp_path / "derived")
    table = pa.concat_tables([pq.read_table(path) for paths in derived.values() for path in paths])
    keys = {
        "user_id": columns["user"],
        "item_id": columns["item"],
        "user_id_place": np.char.add(np.char.add(columns["user"], "/"), columns["place"]),
    }
    assert as_of_names(log.columns) == [f"{key}_{name}" for key in keys for name in ("num_impressions", "click_rate")]
    for name, key in keys.items():
        for row in range(NUM_ROWS):
            earlier = columns["moment"] < columns["moment"][row]
            mine = earlier & (key == key[row])
            mean = columns["label"][earlier].mean() if earlier.any() else 0.0
            rate = (columns["label"][mine].sum() + 5 * mean) / (mine.sum() + 5)
            assert table[f"{name}_num_impressions"][row].as_py() == mine.sum()
            assert table[f"{name}_click_rate"][row].as_py() == pytest.approx(rate)


def test_the_history_is_what_the_user_clicked_and_passed_over_before_newest_first(
    etl: Artifact, columns: Columns
) -> None:
    table = examples(etl)
    encoded = dict(zip(columns["item"].tolist(), table["item_id"].to_pylist(), strict=True))
    for name, label in (("clicked_items", 1), ("skipped_items", 0)):
        for row in range(NUM_ROWS):
            mine = (columns["user"] == columns["user"][row]) & (columns["moment"] < columns["moment"][row])
            places = np.flatnonzero(mine & (columns["label"] == label))[::-1]
            found = table[name][row].as_py()
            moments = columns["moment"][places[:LENGTH]]
            assert len(found) == LENGTH and found[len(moments) :] == [PADDING] * (LENGTH - len(moments))
            # rows of one second have no order: compare second by second, the last one as a subset
            for moment in np.unique(moments):
                here = [encoded[item] for item in columns["item"][places[columns["moment"][places] == moment]]]
                chosen = [one for one, when in zip(found, moments, strict=False) if when == moment]
                assert all(chosen.count(one) <= here.count(one) for one in chosen)
                assert moment == moments[-1] or sorted(chosen) == sorted(here)


def test_the_lists_share_the_items_table(etl: Artifact) -> None:
    schema = load_schema(etl.file("schema.json"))
    for name in ("clicked_items", "skipped_items"):
        assert list_length(schema[name]) == LENGTH
        assert schema[name].int_domain == schema["item_id"].int_domain
        assert Tags.CATEGORICAL in schema[name].tags


@pytest.mark.parametrize("cut", [100, 120, 140])
def test_changing_the_future_changes_no_feature(make: Make, etl: Artifact, columns: Columns, cut: int) -> None:
    """All later rows get another user, item, label, size and place: what stood before them keeps every feature. The cut
    is behind the train part, on which ids and scales are fitted."""
    assert cut >= etl.metrics["valid_from"]
    rng = np.random.default_rng(cut)
    later = columns["moment"] >= cut
    changed = {name: values.copy() for name, values in columns.items()}
    for name in ("user", "item", "size", "place"):
        changed[name][later] = rng.permutation(columns[name][later])
    changed["label"][later] = 1 - changed["label"][later]
    kept = int((~later).sum())
    before, after = examples(etl), examples(make(changed))
    for name in before.column_names:
        assert before[name].slice(0, kept).equals(after[name].slice(0, kept)), name
    for name in ("user_id_click_rate", "item_id_click_rate", "clicked_items", "size"):
        assert not before[name].slice(kept).equals(after[name].slice(kept)), name


def test_the_group_is_a_number_for_each_user_and_no_feature(etl: Artifact, columns: Columns) -> None:
    group = examples(etl)["group"].to_numpy()
    users = columns["user"]
    assert len(np.unique(group)) == len(np.unique(users))
    assert all(len(np.unique(group[users == user])) == 1 for user in np.unique(users))
    assert etl.metrics["group"] == {"of": "user_id", "column": "group"}
    assert "group" not in load_schema(etl.file("schema.json")).column_names


def test_real_numbers_are_signed_logarithms_normalised_over_the_train_part(etl: Artifact, columns: Columns) -> None:
    logarithm = np.sign(columns["size"]) * np.log1p(np.abs(columns["size"]))
    fitted = logarithm[columns["moment"] < etl.metrics["valid_from"]]
    expected = (logarithm - fitted.mean()) / fitted.std(ddof=1)
    np.testing.assert_allclose(examples(etl)["size"].to_numpy(), expected, rtol=1e-4, atol=1e-5)


def test_ids_that_only_later_parts_have_are_unseen(etl: Artifact, columns: Columns) -> None:
    table = examples(etl)
    known = set(columns["item"][columns["moment"] < etl.metrics["valid_from"]].tolist())
    for item, encoded in zip(columns["item"].tolist(), table["item_id"].to_pylist(), strict=True):
        assert (encoded == UNSEEN) == (item not in known)


def test_a_hidden_category_is_no_feature_and_is_counted_all_the_same(make: Make, columns: Columns) -> None:
    etl = make(columns, hidden=("user_id",))
    names = load_schema(etl.file("schema.json")).column_names
    assert "user_id" not in names
    assert {"user_id_click_rate", "clicked_items", "item_id"} <= set(names)
    assert "group" in examples(etl).column_names


def test_later_logs_leave_known_ids_as_they_are(make: Make, etl: Artifact, columns: Columns, tmp_path: Path) -> None:
    config = config_of(tmp_path / "log.parquet", columns)
    more = {name: values[:60] for name, values in columns.items()}
    more["moment"] = more["moment"] + 200
    more["item"] = np.char.add("new-", more["item"])
    pq.write_table(pa.table(more), tmp_path / "more.parquet")
    log = DataConfig(
        adapter="impressions", impressions=config.impressions, append=(str(tmp_path / "more.parquet"),)
    ).impression_log(SPLIT)
    with writing(tmp_path / "etl", "etl", {}, 0, {}) as writer:
        run(ETL, log, 0.01, writer, IN_PROCESS, before=etl, num_known=1)
    later = open_artifact(tmp_path / "etl", "etl")
    assert sum(later.metrics["num_impressions"].values()) == NUM_ROWS + 60
    old, new = examples(etl), examples(later)
    for before, after in zip(old["item_id"].to_pylist(), new["item_id"].to_pylist(), strict=False):
        assert before in (after, UNSEEN)  # what was unseen may be known now
    assert later.metrics["vocabulary"]["number"] == 2


@pytest.mark.parametrize("label", [0, 1])
def test_a_label_that_is_always_the_same_is_refused(make: Make, columns: Columns, label: int) -> None:
    with pytest.raises(ConstantLabelError, match=f"the label is {label} in all"):
        make(columns | {"label": np.full(NUM_ROWS, label)})


def test_ratings_without_a_threshold_are_refused_with_the_way_out(make: Make, columns: Columns) -> None:
    with pytest.raises(LogError, match="positive_from"):
        make(columns | {"label": np.arange(NUM_ROWS) % 5 + 1})


def test_the_schema_has_one_label_and_the_features_of_each_kind(etl: Artifact) -> None:
    schema = load_schema(etl.file("schema.json"))
    assert select(schema, Tags.TARGET).column_names == ["label"]
    assert set(select(schema, Tags.CONTINUOUS).column_names) == {
        "size",
        *(f"{key}_num_impressions" for key in ("user_id", "item_id", "user_id_place")),
        *(f"{key}_click_rate" for key in ("user_id", "item_id", "user_id_place")),
    }
    assert set(select(schema, Tags.CATEGORICAL).column_names) == {
        *("user_id", "item_id", "place", "hour", "weekday", "clicked_items", "skipped_items")
    }
