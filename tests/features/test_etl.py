import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from merlin.schema import Tags

import features.workflow
from features.artifact import Artifact, open_artifact
from features.as_of import ITEM_NUMBERS, MOMENT_NUMBERS, USER_NUMBERS
from features.etl import EtlConfig
from features.history_gaps import NUM_GAPS
from features.logs import FeatureColumns, Logs
from features.schema import FIRST_KNOWN, NULL, PADDING, UNSEEN, list_length, load_schema, num_categories
from features.split import TEST, TRAIN, VALID

MakeEtl = Callable[..., Artifact]


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed-size list column as [rows, length]."""
    return np.array(column.to_pylist(), dtype=np.int64)


def read(etl: Artifact, name: str) -> pa.Table:
    """A part, or all files of one."""
    return pa.concat_tables([pq.read_table(path) for path in etl.files(name)])


def test_events_are_the_interactions_in_time_order(etl: Artifact, logs: Logs) -> None:
    events, users, items = read(etl, "events.parquet"), read(etl, "users.parquet"), read(etl, "items.parquet")
    assert (np.diff(events["timestamp"].to_numpy()) >= 0).all()
    found = pa.table(
        {
            "user_id": users["raw_id"].take(events["user_row"].combine_chunks()),
            "item_id": items["raw_id"].take(events["item_row"].combine_chunks()),
            "timestamp": events["timestamp"],
        }
    )
    order = [(name, "ascending") for name in found.column_names]
    assert found.sort_by(order).to_pydict() == logs.interactions.sort_by(order).to_pydict()
    part = events["split"].to_numpy()
    assert (np.diff(part) >= 0).all() and set(part) == {TRAIN, VALID, TEST}


def test_tables_hold_every_user_and_item_once_in_order_of_raw_id(etl: Artifact, logs: Logs) -> None:
    assert read(etl, "users.parquet")["raw_id"].to_pylist() == sorted(logs.users["user_id"].to_pylist())
    items = read(etl, "items.parquet")
    assert items["raw_id"].to_pylist() == sorted(logs.items["item_id"].to_pylist())
    titles = dict(zip(logs.items["item_id"].to_pylist(), logs.items["title"].to_pylist(), strict=True))
    assert items["title"].to_pylist() == [titles[raw] for raw in items["raw_id"].to_pylist()]


@pytest.mark.parametrize("entity", ["user", "item"])
def test_ids_are_numbered_by_first_appearance_and_never_by_the_test_part(etl: Artifact, entity: str) -> None:
    events, part = read(etl, "events.parquet"), read(etl, "events.parquet")["split"].to_numpy()
    row = events[f"{entity}_row"].to_numpy()
    encoded = read(etl, f"{entity}s")[f"{entity}_id"].to_numpy()
    appeared = list(dict.fromkeys(row[part != TEST].tolist()))
    assert encoded[appeared].tolist() == list(range(FIRST_KNOWN, FIRST_KNOWN + len(appeared)))
    num_train = etl.metrics[f"num_train_{entity}s"]
    assert set(appeared[:num_train]) == set(row[part == TRAIN].tolist())
    others = np.setdiff1d(np.arange(len(encoded)), appeared)
    assert len(others) and (encoded[others] == UNSEEN).all()


def test_a_longer_log_only_appends_ids(make_etl: MakeEtl, etl: Artifact, logs: Logs) -> None:
    """Old ids never change, so that models warm-start."""
    early = pc.less(logs.interactions["timestamp"], etl.metrics["valid_from"])
    shorter = make_etl(replace(logs, interactions=logs.interactions.filter(early)))
    for entity, columns in (("user", logs.user_features), ("item", logs.item_features)):
        ids = [f"{entity}_{name}" for name in ("id", *columns.categorical)]
        old, new = read(shorter, f"{entity}s"), read(etl, f"{entity}s")
        for name in ids:
            before, after = old[name].to_numpy(), new[name].to_numpy()
            known = before >= FIRST_KNOWN
            assert known.any() and (before[known] == after[known]).all(), name
    assert load_schema(etl.file("schema.json"))["user_id"].int_domain.max > (
        load_schema(shorter.file("schema.json"))["user_id"].int_domain.max
    )


def test_history_holds_the_item_ids_of_what_came_before_newest_first(etl: Artifact) -> None:
    item_id = read(etl, "items.parquet")["item_id"].to_numpy()
    events = {name: read(etl, "events.parquet")[name].to_numpy() for name in ("user_row", "item_row", "timestamp")}
    for part in ("train", "valid", "test"):
        examples = read(etl, f"examples/{part}")
        history_QN = matrix(examples["history"])
        user, time = examples["user_row"].to_numpy(), examples["timestamp"].to_numpy()
        for row in range(0, len(examples), 7):
            past = (events["user_row"] == user[row]) & (events["timestamp"] < time[row])
            newest = np.lexsort((events["item_row"][past], events["timestamp"][past]))[::-1][:10]
            expected = item_id[events["item_row"][past][newest]].tolist()
            assert history_QN[row].tolist() == expected + [PADDING] * (10 - len(expected))


def test_gaps_stand_beside_the_history_in_the_examples_and_in_the_state_for_serving(etl: Artifact) -> None:
    events = {name: read(etl, "events.parquet")[name].to_numpy() for name in ("user_row", "timestamp")}
    users, examples = read(etl, "users.parquet"), read(etl, "examples/test")
    asked = [
        (users, np.arange(len(users)), np.full(len(users), etl.metrics["as_of"])),
        (examples, examples["user_row"].to_numpy(), examples["timestamp"].to_numpy()),
    ]
    for table, user, moment in asked:
        gap_QN = matrix(table["history_gap"])
        assert ((gap_QN == PADDING) == (matrix(table["history"]) == PADDING)).all()
        for row in range(0, len(table), 5):
            past = np.sort(events["timestamp"][(events["user_row"] == user[row]) & (events["timestamp"] < moment[row])])
            minutes = -np.diff(past[::-1], prepend=past[-1:])[:10] // 60
            expected = (1 + np.floor(np.log2(1 + minutes))).astype(int).tolist()
            assert gap_QN[row].tolist() == expected + [PADDING] * (10 - len(expected))


def test_gaps_are_a_list_category_of_the_user(etl: Artifact) -> None:
    gap = load_schema(etl.file("schema.json"))["history_gap"]
    assert {Tags.USER, Tags.SEQUENCE, Tags.CATEGORICAL} <= set(gap.tags)
    assert (num_categories(gap), gap.int_domain.name, list_length(gap)) == (NUM_GAPS, "history_gap", 10)


def test_examples_are_the_events_of_their_part_in_order(etl: Artifact) -> None:
    events = read(etl, "events.parquet")
    for part, name in ((TRAIN, "train"), (VALID, "valid"), (TEST, "test")):
        examples, of_part = read(etl, f"examples/{name}"), events.filter(pc.equal(events["split"], part))
        for key in ("user_row", "item_row", "timestamp"):
            assert examples[key].equals(of_part[key])
        assert etl.metrics["num_interactions"][name] == len(examples)
        assert sum(
            etl.manifest["parts"][part]["rows"]
            for part in etl.manifest["parts"]
            if part.startswith(f"examples/{name}/")
        ) == len(examples)


def test_every_value_is_in_its_domain_and_no_number_is_missing(etl: Artifact) -> None:
    schema = load_schema(etl.file("schema.json"))
    parts = ("users", "items", "examples/train", "examples/valid", "examples/test")
    tables = {name: read(etl, name) for name in parts}
    covered = set()
    for name, table in tables.items():
        for column in schema:
            if column.name not in table.column_names:
                continue
            covered.add(column.name)
            if column.is_list:
                values = matrix(table[column.name])
                assert values.shape == (len(table), list_length(column))
            else:
                values = table[column.name].to_numpy()
            if column.int_domain is not None:
                assert values.dtype == np.int64 and 0 <= values.min() <= values.max() < num_categories(column), name
            else:
                assert values.dtype == np.float32 and np.isfinite(values).all(), (name, column.name)
    assert covered == set(schema.column_names)
    assert num_categories(schema["history"]) == num_categories(schema["item_id"])


def test_counts_of_the_train_part_are_normalized_to_mean_0_and_deviation_1(etl: Artifact) -> None:
    train = read(etl, "examples/train")
    for name in (*USER_NUMBERS, *MOMENT_NUMBERS, *ITEM_NUMBERS):
        assert train[name].to_numpy().mean() == pytest.approx(0, abs=1e-4)
        assert train[name].to_numpy().std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("serve_state", ["before_test", "latest"])
def test_the_state_is_that_of_the_moment_it_claims(make_etl: MakeEtl, logs: Logs, serve_state: str) -> None:
    etl = make_etl(logs, EtlConfig(history_length=10, serve_state=serve_state))
    as_of, users, items = etl.metrics["as_of"], read(etl, "users.parquet"), read(etl, "items.parquet")
    events = read(etl, "events.parquet").to_pandas()
    assert as_of == (etl.metrics["test_from"] if serve_state == "before_test" else events["timestamp"].max() + 1)
    past = events[events["timestamp"] < as_of]
    item_id, history_UN = items["item_id"].to_numpy(), matrix(users["history"])
    for row in range(len(users)):
        own = past[past["user_row"] == row].sort_values(["timestamp", "item_row"], ascending=False)
        assert users["num_events"][row].as_py() == len(own)
        assert users["seen"][row].as_py() == sorted(set(own["item_row"]))
        assert users["last_timestamp"][row].as_py() == (own["timestamp"].max() if len(own) else -1)
        assert history_UN[row][: len(own)].tolist() == item_id[own["item_row"]][:10].tolist()
    assert items["num_events"].to_numpy().tolist() == np.bincount(past["item_row"], minlength=len(items)).tolist()


def in_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(features.workflow, "ROWS_PER_PART", rows)


def test_many_parts_give_the_same_features_as_one(
    monkeypatch: pytest.MonkeyPatch, make_etl: MakeEtl, etl: Artifact, logs: Logs
) -> None:
    in_parts(monkeypatch, 700)
    parted = make_etl(logs)
    for name in ("users", "items", "events", "examples/train", "examples/valid", "examples/test"):
        one, many = read(etl, name), read(parted, name)
        for column in one.column_names:
            if pa.types.is_floating(one.schema.field(column).type):
                np.testing.assert_allclose(many[column].to_numpy(), one[column].to_numpy(), rtol=1e-4, atol=1e-5)
            else:
                assert many[column].to_pylist() == one[column].to_pylist(), (name, column)


def with_features(logs: Logs, users: dict[str, list], items: dict[str, list], **kinds: FeatureColumns) -> Logs:
    types = {"text": pa.string(), "number": pa.float64(), "list": pa.list_(pa.string())}
    tables = {}
    for table, id_columns, columns in (
        ("users", ["user_id"], users),
        ("items", ["item_id", "title"], items),
    ):
        of_kind = {name: pa.array(values, types[name.split("_")[0]]) for name, values in columns.items()}
        tables[table] = pa.table({name: getattr(logs, table)[name] for name in id_columns} | of_kind)
    return replace(
        logs,
        **tables,
        user_features=kinds.get("user", FeatureColumns()),
        item_features=kinds.get("item", FeatureColumns()),
    )


def test_a_log_without_any_user_or_item_feature_is_encoded(make_etl: MakeEtl, logs: Logs) -> None:
    etl = make_etl(with_features(logs, {}, {}))
    assert "user_id" in load_schema(etl.file("schema.json")).column_names
    assert read(etl, "users.parquet")["user_id"].null_count == 0


def test_one_feature_of_each_kind_with_nulls_empty_lists_and_unicode_is_encoded(
    monkeypatch: pytest.MonkeyPatch, make_etl: MakeEtl, logs: Logs
) -> None:
    in_parts(monkeypatch, 64)  # whole parts are null
    kinds = FeatureColumns(("text_a", "text_null"), ("number_a", "number_null", "number_same"), ("list_a", "list_none"))

    def columns(num: int) -> dict[str, list]:
        known = num * 3 // 4
        return {
            "text_a": [["Ü", "日本", "", None][row % 4] if row < known else None for row in range(num)],
            "text_null": [None] * num,
            "number_a": [float(row) if row < known else None for row in range(num)],
            "number_null": [None] * num,
            "number_same": [0.1] * num,
            "list_a": [[["a", "é"], [], ["a"] * 20][row % 3] if row < known else [] for row in range(num)],
            "list_none": [[]] * num,
        }

    made = with_features(logs, columns(200), columns(100), user=kinds, item=kinds)
    etl = make_etl(made)
    schema = load_schema(etl.file("schema.json"))
    for entity, num in (("user", 200), ("item", 100)):
        table = read(etl, f"{entity}s")
        order = pc.sort_indices(getattr(made, f"{entity}s")[f"{entity}_id"])
        raw = getattr(made, f"{entity}s").take(order)
        text, ids = raw["text_a"].to_pylist(), table[f"{entity}_text_a"].to_pylist()
        assert {encoded for value, encoded in zip(text, ids, strict=True) if value is None} == {NULL}
        assert len(set(zip(text, ids, strict=True))) == 4 and set(ids) == {1, 3, 4, 5}
        assert set(table[f"{entity}_text_null"].to_pylist()) == {NULL}
        for name in ("number_null", "number_same"):
            assert set(table[f"{entity}_{name}"].to_pylist()) == {0.0}
        assert np.isfinite(table[f"{entity}_number_a"].to_numpy()).all()
        lists = matrix(table[f"{entity}_list_a"])
        assert lists.shape == (num, 8)
        for values, row in zip(raw["list_a"].to_pylist(), lists.tolist(), strict=True):
            assert [encoded >= FIRST_KNOWN for encoded in row] == [place < len(values) for place in range(8)]
        assert not matrix(table[f"{entity}_list_none"]).any()
        assert num_categories(schema[f"{entity}_list_none"]) == FIRST_KNOWN


def test_a_number_that_is_constant_in_training_is_0_for_everybody(make_etl: MakeEtl, etl: Artifact, logs: Logs) -> None:
    """NVTabular's deviation of a constant is a rounding error; divided by it, a new value would be astronomical."""
    items = read(etl, "items.parquet")
    in_training = items["item_id"].to_numpy() >= FIRST_KNOWN
    in_training &= items["item_id"].to_numpy() < FIRST_KNOWN + etl.metrics["num_train_items"]
    assert not in_training.all()
    trained = set(items["raw_id"].filter(pa.array(in_training)).to_pylist())
    number = [1234567.89 if raw in trained else 2e6 for raw in logs.items["item_id"].to_pylist()]
    made = make_etl(with_features(logs, {}, {"number_a": number}, item=FeatureColumns((), ("number_a",), ())))
    assert set(read(made, "items")["item_number_a"].to_pylist()) == {0.0}


@pytest.mark.parametrize(("entity", "name"), [("user", "num_events"), ("item", "age_days"), ("item", "row")])
def test_a_feature_named_like_one_of_ours_is_refused(make_etl: MakeEtl, logs: Logs, entity: str, name: str) -> None:
    taken = replace(logs, **{f"{entity}_features": FeatureColumns((), (name,), ())})
    with pytest.raises(ValueError, match=f"{name}.*give it another name"):
        make_etl(taken)


def test_a_log_in_which_nobody_has_a_history_is_encoded(make_etl: MakeEtl, logs: Logs) -> None:
    users = pa.array([f"visitor-{row:04d}" for row in range(300)])
    interactions = logs.interactions.slice(0, 300).set_column(0, "user_id", users)
    made = replace(logs, interactions=interactions, users=pa.table({"user_id": users}), user_features=FeatureColumns())
    etl = make_etl(made)
    assert not matrix(read(etl, "examples/train")["history"]).any()
    assert matrix(read(etl, "users.parquet")["history"]).any(1).sum() == 300 - etl.metrics["num_interactions"]["test"]


def test_the_schema_says_nothing_of_the_machine(etl: Artifact) -> None:
    assert "cascade-vocabularies" not in etl.file("schema.json").read_text()
    assert set(json.loads(etl.file("online.json").read_text())) == {*USER_NUMBERS, *MOMENT_NUMBERS, *ITEM_NUMBERS}


@pytest.mark.slow
def test_reruns_in_fresh_processes_give_the_same_content_hash(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from dataclasses import asdict\n"
        "from features import etl\n"
        "from features.artifact import writing\n"
        "from features.logs.synthetic import SyntheticConfig, synthetic_logs\n"
        "with writing(pathlib.Path(sys.argv[1]), 'etl', asdict(etl.EtlConfig()), 0, {}) as writer:\n"
        "    etl.run(etl.EtlConfig(), synthetic_logs(SyntheticConfig(num_users=200, num_items=100,"
        " num_interactions=3_000)), writer)\n"
    )
    hashes = set()
    for seed in ("0", "1", "2"):
        path = tmp_path / seed / "etl"
        environment = os.environ | {"PYTHONHASHSEED": seed, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": seed}
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], env=environment, check=True)
        hashes.add(open_artifact(path, "etl").content_hash)
    assert len(hashes) == 1
