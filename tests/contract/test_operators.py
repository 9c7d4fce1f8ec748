"""What every operator of the request path promises, one row an operator.

Each operator gets the columns that those before it made for real users of a small run, so that whatever holds here
holds for the columns it will meet: as it comes, and with every option of configuration and request in use.
"""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest
from merlin.dag import ColumnSelector
from merlin.schema import Schema
from merlin.table import TensorTable

from ensemble.cache_config import CacheConfig
from ensemble.config import ServingConfig
from ensemble.filter_config import FilterConfig, StockConfig
from ensemble.graph import REQUEST_SCHEMA, GraphFiles
from ensemble.operators.encode_query import EncodeQuery
from ensemble.operators.fetch_user_features import CACHED, DEGRADED, FALLBACK, FetchUserFeatures
from ensemble.operators.fill_candidates import FillCandidates
from ensemble.operators.forbid_items import ForbidItems
from ensemble.operators.keep_allowed import KeepAllowed
from ensemble.operators.merge_candidates import MergeCandidates
from ensemble.operators.operator import RequestOperator
from ensemble.operators.order_slate import OrderSlate
from ensemble.operators.recall_slates import RecallSlates
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.operators.score_candidates import ScoreCandidates
from ensemble.ordering_config import OrderingConfig
from ensemble.slate_cache import write_slates

REPOSITORY = Path(__file__).resolve().parents[2]
NO_ITEM = -1
NUM_CANDIDATES = 20
OF_CANDIDATES = ("candidate_row", "retrieval_score", "candidate_sources", "score")
"""Columns with a place for each candidate."""


@dataclass(frozen=True)
class Row:
    """An operator under test."""

    make: Callable[[GraphFiles], RequestOperator]
    reads_candidates: bool = False


ROWS = {  # in the order of the request path
    "FetchUserFeatures": Row(lambda files: FetchUserFeatures(files.store, files.schema)),
    "EncodeQuery": Row(lambda files: EncodeQuery(files.query_encoder)),
    "ForbidItems": Row(lambda files: ForbidItems(files.items, files.attributes, True)),
    "RetrieveCandidates": Row(
        lambda files: RetrieveCandidates(
            files.index, files.query_encoder, files.sources, files.items, files.attributes, NUM_CANDIDATES
        )
    ),
    "MergeCandidates": Row(lambda files: MergeCandidates(files.sources)),
    "RecallSlates": Row(lambda files: RecallSlates(files.items, files.attributes), reads_candidates=True),
    "KeepAllowed": Row(
        lambda files: KeepAllowed(files.items, files.attributes, files.item_vectors), reads_candidates=True
    ),
    "FillCandidates": Row(lambda files: FillCandidates(files.items, files.attributes), reads_candidates=True),
    "ScoreCandidates": Row(
        lambda files: ScoreCandidates(files.ranker, files.items, files.item_vectors, files.sources, files.online),
        reads_candidates=True,
    ),
    "OrderSlate": Row(
        lambda files: OrderSlate(files.items, files.attributes, files.item_vectors, files.online), reads_candidates=True
    ),
}
every_operator = pytest.mark.parametrize("name", ROWS)
every_candidate_reader = pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.reads_candidates])

RUN_SAVED = """
import pickle, sys
from pathlib import Path
folder = Path(sys.argv[1])
answers = {}
for path in sorted(folder.glob("*.operator")):
    operator, config, columns = pickle.loads(path.read_bytes())
    operator.opened_config = config
    operator.load_artifacts(str(folder / f"{path.stem}.files"))
    answers[path.stem] = operator.run(columns)
(folder / "answers").write_bytes(pickle.dumps(answers))
"""


@dataclass(frozen=True)
class Placed:
    """An opened operator with the columns and the schema that reach it, and the folder it was saved to."""

    operator: RequestOperator
    columns: dict[str, np.ndarray]
    schema: Schema


@pytest.fixture(scope="module")
def saved(small_run, tmp_path_factory) -> Path:
    """Every operator saved as the export saves it."""
    folder = tmp_path_factory.mktemp("operators")
    files = GraphFiles(
        store=next(small_run.glob("export/**/store")),
        schema=small_run / "etl/schema.json",
        online=small_run / "etl/online.json",
        items=small_run / "etl/items.parquet",
        attributes=small_run / "etl/raw/items.parquet",
        query_encoder=small_run / "retrieval/query_encoder.onnx",
        item_vectors=small_run / "retrieval/item_vectors.parquet",
        sources=small_run / "retrieval/sources",
        index=small_run / "index",
        ranker=small_run / "ranking/ranker.onnx",
    )
    for name, row in ROWS.items():
        operator = row.make(files)
        (folder / f"{name}.files").mkdir()
        operator.save_artifacts(str(folder / f"{name}.files"))
        (folder / f"{name}.pickle").write_bytes(cloudpickle.dumps(operator))
    return folder


@pytest.fixture(scope="module", params=["as it comes", "every option"])
def with_options(request) -> bool:
    return request.param == "every option"


@pytest.fixture(scope="module")
def placed(with_options, saved, small_run, tmp_path_factory) -> dict[str, Placed]:
    """The operators loaded, and run one after the other."""
    columns, schema, found = request_columns(small_run), REQUEST_SCHEMA, {}
    config = ServingConfig()
    if with_options:
        columns |= options_of(len(columns["user"]))
        config = every_option(small_run, tmp_path_factory.mktemp("options"), columns["user"][STORE_IS_DOWN].tolist())
    for name in ROWS:
        operator = cloudpickle.loads((saved / f"{name}.pickle").read_bytes())
        operator.opened_config = config
        operator.load_artifacts(str(saved / f"{name}.files"))
        found[name] = Placed(operator, columns, schema)
        columns = columns | operator.run(columns)
        if with_options and name == "FetchUserFeatures":
            columns["source"][STORE_IS_DOWN] = DEGRADED
        schema = operator.compute_output_schema(schema, ColumnSelector("*"))
    return found


@pytest.fixture(scope="module")
def fresh_answers(saved, placed) -> dict[str, dict[str, np.ndarray]]:
    """What a fresh process gets from the saved operators."""
    for name, one in placed.items():
        saving = one.operator, one.operator.opened_config, one.columns
        (saved / f"{name}.operator").write_bytes(cloudpickle.dumps(saving))
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN_SAVED, saved], check=True, cwd=REPOSITORY)
    return pickle.loads((saved / "answers").read_bytes())


def raw_ids_of(run: Path) -> list[str]:
    return pq.read_table(run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()


def request_columns(run: Path) -> dict[str, np.ndarray]:
    """Personal, cold and unknown users, one of them twice, with few and many items wanted and excluded."""
    users = pq.read_table(run / "etl/users.parquet", columns=["raw_id", "num_events"]).to_pydict()
    by_activity = np.argsort(users["num_events"])
    known = [users["raw_id"][place] for place in (*by_activity[:2], *by_activity[-4:])]
    items = raw_ids_of(run)
    asked = [*known, known[-1], "stranger", "\U0001f600"]
    wanted = [10, 1, 30, 100, 5, 10, 10, 10, 7]
    excluded = [[], [items[3]] * 5, items[:10], items[:-1], ["nothing", ""], items, items[5:9], items[::2], []]
    exclude = np.full((len(asked), len(items)), "", dtype=object)
    for place, ids in zip(exclude, excluded, strict=True):
        place[: len(ids)] = ids
    allow = np.full((len(asked), 40), "", dtype=object)
    allow[1, :3], allow[4, :40], allow[7, :2] = items[:3], items[:40], ["nothing", items[1]]
    return {
        "user": np.array(asked, dtype=object),
        "k": np.array(wanted),
        "exclude": exclude,
        "allow": allow,
        "timestamp": np.arange(len(asked)) * 40_000 + 1_713_000_000,
        "seed": np.arange(len(asked)),
        "temperature": np.full(len(asked), np.nan, dtype=np.float32),
        "diversity": np.full(len(asked), np.nan, dtype=np.float32),
        "deadline": np.full(len(asked), np.inf),
        "with_candidates": np.ones(len(asked), dtype=bool),
    }


STORE_IS_DOWN = slice(3, 5)
"""Users for whom it is, where every option is in use."""


def options_of(num_users: int) -> dict[str, np.ndarray]:
    """What a request may ask for beside the rest, in every mixture; nan is left to the configuration."""
    places = np.arange(num_users)
    return {
        "temperature": np.array([np.nan, 0, 0.4, 30], np.float32)[places % 4],
        "diversity": np.array([0.3, np.nan, 0, 1, 0.05], np.float32)[places % 5],
        "with_candidates": places % 2 == 0,
    }


def every_option(run: Path, folder: Path, users_with_slates: list[str]) -> ServingConfig:
    """Rules, stock, everything that orders, and slates that were made earlier."""
    items = raw_ids_of(run)
    (folder / "stock.csv").write_text("item_id,available\n" + "".join(f"{item_id},0\n" for item_id in items[4::9]))
    made = [(user, np.arange(place, 60), np.arange(60, 62)) for place, user in enumerate(users_with_slates)]
    write_slates(folder / "slates.db", {"made_at": time.time()}, items, made)
    return ServingConfig(
        filters=FilterConfig(
            rules={"affordable": "price <= 50", "not sport": 'index_group_name != "Sport"'},
            stock=StockConfig(file=str(folder / "stock.csv"), poll_seconds=3_600),
        ),
        ordering=OrderingConfig(
            temperature=0.2,
            diversity=0.1,
            caps={"index_group_name": 3},
            boosts={"price > 20": 0.3},
            freshness_boost=0.2,
        ),
        cache=CacheConfig(file=str(folder / "slates.db")),
    )


def rows_of(columns, rows):
    return {name: values[rows] for name, values in columns.items()}


def padding_of(name, values):
    if name in {"retrieval_score", "candidate_sources", "propensities"}:
        return 0
    return {"O": "", "i": NO_ITEM}.get(values.dtype.kind, -np.inf)


def assert_same(answer, expected):
    """Equal bit for bit; one of the two may be padded to a larger width."""
    assert answer.keys() == expected.keys()
    for name, values in answer.items():
        others = expected[name]
        assert values.dtype == others.dtype and values.ndim == others.ndim and len(values) == len(others), name
        shared = tuple(slice(min(sizes)) for sizes in zip(values.shape, others.shape, strict=True))
        np.testing.assert_array_equal(values[shared], others[shared], err_msg=name)
        for one in (values, others):
            beyond = np.ones(one.shape, bool)
            beyond[shared] = False
            assert (one[beyond] == padding_of(name, one)).all(), name


def narrowed(columns, width):
    """The columns as if retrieval had found `width` candidates only."""
    return columns | {name: columns[name][:, :width] for name in OF_CANDIDATES if name in columns}


@every_operator
def test_output_equals_its_declared_schema(placed, name):
    one = placed[name]
    table = one.operator.transform(ColumnSelector("*"), TensorTable(one.columns))
    declared = one.operator.compute_output_schema(one.schema, ColumnSelector("*"))
    assert set(table.columns) == set(declared.column_names)
    for column in declared:
        values = table[column.name].values
        assert values.dtype == column.dtype.to_numpy, column.name
        assert values.ndim == len(column.shape.dims), column.name
        for size, dim in zip(values.shape[1:], column.shape.dims[1:], strict=True):
            assert dim.min <= size and (dim.max is None or size <= dim.max), column.name


@every_operator
def test_a_batch_equals_its_users_one_by_one(placed, name):
    one = placed[name]
    together = one.operator.run(one.columns)
    for user in range(len(one.columns["user"])):
        rows = slice(user, user + 1)
        assert_same(one.operator.run(rows_of(one.columns, rows)), rows_of(together, rows))


@every_operator
def test_the_same_input_gives_the_same_answer_in_any_order_and_number(placed, name):
    one = placed[name]
    expected = one.operator.run(one.columns)
    assert_same(one.operator.run(one.columns), expected)
    rows = np.random.default_rng(0).integers(0, len(one.columns["user"]), 64)
    assert_same(one.operator.run(rows_of(one.columns, rows)), rows_of(expected, rows))


@every_operator
def test_inputs_are_left_alone(placed, name):
    one = placed[name]
    before = {column: values.copy() for column, values in one.columns.items()}
    one.operator.run(one.columns)
    for column, values in before.items():
        np.testing.assert_array_equal(one.columns[column], values)


@every_operator
def test_it_survives_save_and_load_in_a_fresh_process(placed, fresh_answers, name):
    assert_same(fresh_answers[name], placed[name].operator.run(placed[name].columns))


@every_operator
def test_the_pickle_holds_no_path_of_this_machine(saved, small_run, name):
    assert str(small_run).encode() not in (saved / f"{name}.pickle").read_bytes()


@every_candidate_reader
@pytest.mark.parametrize("width", [0, 1, 3])
def test_zero_one_and_too_few_candidates(placed, name, width):
    one = placed[name]
    columns = narrowed(one.columns, width)
    answer = one.operator.run(columns)
    for values in answer.values():
        assert len(values) == len(columns["user"])
    for user in range(len(columns["user"])):
        assert_same(one.operator.run(rows_of(columns, slice(user, user + 1))), rows_of(answer, slice(user, user + 1)))


@every_candidate_reader
def test_empty_slots_are_never_served_nor_change_the_rest(placed, name):
    one = placed[name]
    columns = dict(one.columns)
    the_merge_leaves_none = name in ("RecallSlates", "KeepAllowed", "FillCandidates")
    num_before, num_behind = (0 if the_merge_leaves_none else 2), 2
    for column in OF_CANDIDATES:
        if column in columns:
            values = columns[column]
            beside = ((0, 0), (num_before, num_behind), *[(0, 0)] * (values.ndim - 2))
            columns[column] = np.pad(values, beside, constant_values=padding_of(column, values))
    answer, expected = one.operator.run(columns), one.operator.run(one.columns)
    answer.pop("candidate_ids", None), expected.pop("candidate_ids", None)  # as they came, gaps and all
    for column in answer.keys() & set(OF_CANDIDATES):
        assert (answer[column][:, :num_before] == padding_of(column, answer[column])).all()
        answer[column] = answer[column][:, num_before:]
    assert_same(answer, expected)


def items_in(values) -> set[int]:
    return set(values.ravel().tolist()) - {NO_ITEM}


def test_what_is_forbidden_is_what_was_seen_and_what_is_excluded(placed, small_run):
    one = placed["ForbidItems"]
    row_of = {raw_id: row for row, raw_id in enumerate(raw_ids_of(small_run))}
    forbidden_BS = one.operator.run(one.columns)["forbidden_row"]
    for user, forbidden in enumerate(forbidden_BS):
        excluded = {row_of[raw_id] for raw_id in one.columns["exclude"][user].tolist() if raw_id in row_of}
        assert items_in(forbidden) == excluded | items_in(one.columns["seen_row"][user])
    assert (one.columns["seen_row"] != NO_ITEM).any() and (forbidden_BS == NO_ITEM).any()


def test_where_items_may_come_back_only_the_excluded_are_forbidden(placed, saved):
    one = placed["ForbidItems"]
    lenient = ForbidItems(
        saved / "ForbidItems.files/items.parquet", saved / "ForbidItems.files/item_attributes.parquet", drop_seen=False
    )
    lenient.load_artifacts(str(saved / "ForbidItems.files"))
    every = one.operator.run(one.columns)["forbidden_row"]
    excluded = lenient.run(one.columns)["forbidden_row"]
    for user, mine in enumerate(excluded):
        assert items_in(mine) <= items_in(every[user])
        assert items_in(every[user]) == items_in(mine) | items_in(one.columns["seen_row"][user])
    assert any(items_in(mine) != items_in(all_of) for mine, all_of in zip(excluded, every, strict=True))


def kept_from_everybody(placed) -> set[int]:
    """Items that rules and stock keep away."""
    allowed_I = placed["ForbidItems"].operator.opened_filters.now.allowed_I
    return set() if allowed_I is None else set(np.flatnonzero(~allowed_I).tolist())


def test_what_is_forbidden_is_proposed_by_no_source_and_never_comes_back(placed, with_options):
    forbidden_BS, kept_away = placed["RetrieveCandidates"].columns["forbidden_row"], kept_from_everybody(placed)
    assert bool(kept_away) == with_options
    after = [
        placed["RetrieveCandidates"].operator.run(placed["RetrieveCandidates"].columns)["proposed_row"],
        placed["FillCandidates"].columns["candidate_row"],
        placed["ScoreCandidates"].columns["candidate_row"],
    ]
    assert all((proposed != NO_ITEM).any() for proposed in after)
    for proposed in after:
        for user, forbidden in enumerate(forbidden_BS):
            assert not items_in(proposed[user]) & (items_in(forbidden) | kept_away)


def test_every_source_proposes_to_the_known_and_none_to_the_unknown(placed):
    one = placed["RetrieveCandidates"]
    answer = one.operator.run(one.columns)
    known_B = one.columns["source"] < FALLBACK
    assert known_B.any() and not known_B.all() and not answer["num_failed_sources"].any()
    assert (answer["proposed_row"][~known_B] == NO_ITEM).all()
    assert (answer["proposed_row"][known_B] != NO_ITEM).any((0, 2)).all()
    np.testing.assert_array_equal(answer["wanted"], np.maximum(NUM_CANDIDATES, one.columns["k"]))


@pytest.mark.parametrize("name", ["MergeCandidates", "FillCandidates"])
def test_no_candidate_is_invented_or_repeated(placed, small_run, name):
    num_items = len(raw_ids_of(small_run))
    for row in placed[name].operator.run(placed[name].columns)["candidate_row"]:
        items = row[row != NO_ITEM]
        assert len(set(items.tolist())) == len(items) and (items < num_items).all()


def test_the_merge_loses_nothing_up_to_the_number_wanted(placed):
    one = placed["MergeCandidates"]
    answer = one.operator.run(one.columns)
    for user, row in enumerate(answer["candidate_row"]):
        proposed = items_in(one.columns["proposed_row"][user])
        assert items_in(row) <= proposed
        assert len(items_in(row)) == min(len(proposed), one.columns["wanted"][user])
        empty = row == NO_ITEM
        assert not answer["retrieval_score"][user, empty].any()
        assert not answer["candidate_sources"][user, empty].any()
        assert answer["candidate_sources"][user, ~empty].any(1).all()


def test_everybody_has_k_candidates_while_so_many_are_allowed(placed, small_run):
    one, num_items, kept_away = placed["FillCandidates"], len(raw_ids_of(small_run)), kept_from_everybody(placed)
    for columns in (one.columns, narrowed(one.columns, 3)):
        answer = one.operator.run(columns)
        for user, row in enumerate(answer["candidate_row"]):
            allowed = num_items - len(items_in(columns["forbidden_row"][user]) | kept_away)
            wanted = (
                columns["wanted" if columns["source"][user] >= FALLBACK else "k"][user]
                * ~columns["is_restricted"][user]
            )
            had = items_in(columns["candidate_row"][user])
            assert len(items_in(row)) == max(len(had), min(wanted, allowed)) and had <= items_in(row)
            added = ~np.isin(row, sorted(had))
            assert not answer["retrieval_score"][user, added].any()
            assert not answer["candidate_sources"][user, added].any()


def test_scores_stand_where_their_candidates_stand(placed):
    one = placed["ScoreCandidates"]
    score_BK = one.operator.run(one.columns)["score"]
    assert ((one.columns["candidate_row"] == NO_ITEM) == np.isneginf(score_BK)).all()
    shuffled = np.random.default_rng(0).permutation(score_BK.shape[1])
    columns = one.columns | {name: one.columns[name][:, shuffled] for name in OF_CANDIDATES if name in one.columns}
    np.testing.assert_array_equal(one.operator.run(columns)["score"], score_BK[:, shuffled])


def test_the_slate_is_made_of_the_candidates(placed, with_options):
    columns = placed["OrderSlate"].columns | {"with_candidates": np.ones(len(placed["OrderSlate"].columns["k"]), bool)}
    answer, is_reordered = placed["OrderSlate"].operator.run(columns), False
    for slate, candidates, ranked, k in zip(
        answer["item_ids"], answer["candidate_ids"], answer["ranked_ids"], columns["k"], strict=True
    ):
        slate, candidates, ranked = ([item for item in ids if item] for ids in (slate, candidates, ranked))
        assert sorted(candidates) == sorted(ranked) and set(slate) <= set(ranked)
        assert len(slate) == len(set(slate)) == min(k, len(ranked))
        is_reordered |= slate != ranked[: len(slate)]
    assert is_reordered == with_options


def test_slates_of_earlier_stand_in_where_the_store_is_down(placed, with_options):
    assert (placed["OrderSlate"].columns["source"] == CACHED).any() == with_options
