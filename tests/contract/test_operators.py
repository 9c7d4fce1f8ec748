"""What every operator of the request path promises, one row an operator.

Each operator gets the columns that those before it made for real users of a small run, so that whatever holds here
holds for the columns it will meet.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest
from merlin.dag import ColumnSelector
from merlin.schema import Schema
from merlin.table import TensorTable

from ensemble.graph import REQUEST_SCHEMA, GraphFiles
from ensemble.operators.drop_excluded import DropExcluded
from ensemble.operators.drop_seen import DropSeen
from ensemble.operators.encode_query import EncodeQuery
from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.operators.fill_candidates import FillCandidates
from ensemble.operators.operator import RequestOperator
from ensemble.operators.order_slate import OrderSlate
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.operators.score_candidates import ScoreCandidates

REPOSITORY = Path(__file__).resolve().parents[2]
NO_ITEM = -1
NUM_CANDIDATES = 20


@dataclass(frozen=True)
class Row:
    """An operator under test."""

    make: Callable[[GraphFiles], RequestOperator]
    reads_candidates: bool = True
    forbidden: tuple[str, ...] = field(default=())
    """For a filter: the columns of what it takes away."""


ROWS = {  # in the order of the request path
    "FetchUserFeatures": Row(lambda files: FetchUserFeatures(files.store, files.schema), reads_candidates=False),
    "EncodeQuery": Row(lambda files: EncodeQuery(files.query_encoder), reads_candidates=False),
    "RetrieveCandidates": Row(
        lambda files: RetrieveCandidates(files.index, files.items, NUM_CANDIDATES, True), reads_candidates=False
    ),
    "DropSeen": Row(lambda files: DropSeen(), forbidden=("seen_row",)),
    "DropExcluded": Row(lambda files: DropExcluded(files.items), forbidden=("excluded_row",)),
    "FillCandidates": Row(lambda files: FillCandidates(files.items, True)),
    "ScoreCandidates": Row(lambda files: ScoreCandidates(files.ranker, files.items, files.item_vectors, files.online)),
    "OrderSlate": Row(lambda files: OrderSlate(files.items)),
}
every_operator = pytest.mark.parametrize("name", ROWS)
every_candidate_reader = pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.reads_candidates])
every_filter = pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.forbidden])

RUN_SAVED = """
import pickle, sys
from pathlib import Path
folder = Path(sys.argv[1])
answers = {}
for path in sorted(folder.glob("*.operator")):
    operator, columns = pickle.loads(path.read_bytes())
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
        query_encoder=small_run / "retrieval/query_encoder.onnx",
        item_vectors=small_run / "retrieval/item_vectors.parquet",
        index=small_run / "index/index.faiss",
        ranker=small_run / "ranking/ranker.onnx",
    )
    for name, row in ROWS.items():
        operator = row.make(files)
        (folder / f"{name}.files").mkdir()
        operator.save_artifacts(str(folder / f"{name}.files"))
        (folder / f"{name}.pickle").write_bytes(cloudpickle.dumps(operator))
    return folder


@pytest.fixture(scope="module")
def placed(saved, small_run) -> dict[str, Placed]:
    """The operators loaded, and run one after the other."""
    columns, schema, found = request_columns(small_run), REQUEST_SCHEMA, {}
    for name in ROWS:
        operator = cloudpickle.loads((saved / f"{name}.pickle").read_bytes())
        operator.load_artifacts(str(saved / f"{name}.files"))
        found[name] = Placed(operator, columns, schema)
        columns = columns | operator.run(columns)
        schema = operator.compute_output_schema(schema, ColumnSelector("*"))
    return found


@pytest.fixture(scope="module")
def fresh_answers(saved, placed) -> dict[str, dict[str, np.ndarray]]:
    """What a fresh process gets from the saved operators."""
    for name, (operator, columns) in {name: (one.operator, one.columns) for name, one in placed.items()}.items():
        (saved / f"{name}.operator").write_bytes(cloudpickle.dumps((operator, columns)))
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN_SAVED, saved], check=True, cwd=REPOSITORY)
    return pickle.loads((saved / "answers").read_bytes())


def request_columns(run: Path) -> dict[str, np.ndarray]:
    """Personal, cold and unknown users, one of them twice, with few and many items wanted and excluded."""
    users = pq.read_table(run / "etl/users.parquet", columns=["raw_id", "num_events"]).to_pydict()
    by_activity = np.argsort(users["num_events"])
    known = [users["raw_id"][place] for place in (*by_activity[:2], *by_activity[-4:])]
    items = pq.read_table(run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    asked = [*known, known[-1], "stranger", "\U0001f600"]
    wanted = [10, 1, 30, 100, 5, 10, 10, 10, 7]
    excluded = [[], [items[3]] * 5, items[:10], items[:-1], ["nothing", ""], items, items[5:9], items[::2], []]
    exclude = np.full((len(asked), len(items)), "", dtype=object)
    for place, ids in zip(exclude, excluded, strict=True):
        place[: len(ids)] = ids
    return {
        "user": np.array(asked, dtype=object),
        "k": np.array(wanted),
        "exclude": exclude,
        "timestamp": np.arange(len(asked)) * 40_000 + 1_713_000_000,
        "with_candidates": np.ones(len(asked), dtype=bool),
    }


def rows_of(columns, rows):
    return {name: values[rows] for name, values in columns.items()}


def padding_of(name, values):
    return {"O": "", "i": NO_ITEM}.get(values.dtype.kind, 0 if name == "propensities" else -np.inf)


def assert_same(answer, expected):
    """Equal bit for bit; one of the two may be padded to a larger width."""
    assert answer.keys() == expected.keys()
    for name, values in answer.items():
        others = expected[name]
        if values.ndim > 1 and values.shape[1] < others.shape[1]:
            values, others = others, values
        shared = values[:, : others.shape[1]] if values.ndim > 1 else values
        np.testing.assert_array_equal(shared, others, err_msg=name)
        assert values.dtype == others.dtype
        assert values.ndim == 1 or (values[:, others.shape[1] :] == padding_of(name, values)).all(), name


def narrowed(columns, width):
    """The columns as if retrieval had found `width` candidates only."""
    cut = {name: columns[name][:, :width] for name in ("candidate_row", "score") if name in columns}
    return columns | cut


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
    row_BK = one.columns["candidate_row"]
    gap = np.full((len(row_BK), 2), NO_ITEM)
    columns = one.columns | {"candidate_row": np.concatenate([gap, row_BK, gap], axis=1)}
    if "score" in columns:
        worthless = np.full(gap.shape, -np.inf, dtype=np.float32)
        columns["score"] = np.concatenate([worthless, columns["score"], worthless], axis=1)
    answer, expected = one.operator.run(columns), one.operator.run(one.columns)
    answer.pop("candidate_ids", None), expected.pop("candidate_ids", None)  # as they came, gaps and all
    for column in answer.keys() & {"candidate_row", "score"}:
        if answer[column].shape == columns["candidate_row"].shape:
            assert (answer[column][:, :2] == padding_of(column, answer[column])).all()
            answer[column] = answer[column][:, 2:]
    assert_same(answer, expected)


@every_filter
def test_a_filter_takes_the_forbidden_items_of_each_user_and_no_other(placed, name):
    one, row = placed[name], ROWS[name]
    columns = one.columns
    if name == "DropSeen":  # repeats and empty slots among what is forbidden
        seen = columns["seen_row"]
        columns = columns | {"seen_row": np.concatenate([seen, np.full_like(seen, NO_ITEM), seen[:, ::-1]], axis=1)}
    answer = one.operator.run(columns)
    after = columns | answer
    (counter,) = (column for column in answer if column.startswith("num_dropped"))
    for user, (before, kept) in enumerate(zip(columns["candidate_row"], answer["candidate_row"], strict=True)):
        forbidden = set(np.concatenate([after[column][user] for column in row.forbidden]).tolist()) - {NO_ITEM}
        assert kept.tolist() == [NO_ITEM if item in forbidden else item for item in before.tolist()]
        assert answer[counter][user] == sum(item in forbidden for item in before.tolist())


def test_some_filter_had_something_to_do(placed):
    seen = placed["DropSeen"].operator.run(placed["DropSeen"].columns)
    excluded = placed["DropExcluded"].operator.run(placed["DropExcluded"].columns)
    assert seen["num_dropped_seen"].any() and excluded["num_dropped_excluded"].any()


@pytest.mark.parametrize("name", ["RetrieveCandidates", "FillCandidates"])
def test_no_candidate_is_invented_or_repeated(placed, small_run, name):
    num_items = pq.read_metadata(small_run / "etl/items.parquet").num_rows
    for row in placed[name].operator.run(placed[name].columns)["candidate_row"]:
        items = row[row != NO_ITEM]
        assert len(set(items.tolist())) == len(items) and (items < num_items).all()


def test_scores_stand_where_their_candidates_stand(placed):
    one = placed["ScoreCandidates"]
    score_BK = one.operator.run(one.columns)["score"]
    assert ((one.columns["candidate_row"] == NO_ITEM) == np.isneginf(score_BK)).all()
    shuffled = np.random.default_rng(0).permutation(score_BK.shape[1])
    columns = one.columns | {"candidate_row": one.columns["candidate_row"][:, shuffled]}
    np.testing.assert_array_equal(one.operator.run(columns)["score"], score_BK[:, shuffled])


def test_the_slate_is_made_of_the_candidates(placed):
    answer = placed["OrderSlate"].operator.run(placed["OrderSlate"].columns)
    for slate, candidates, ranked in zip(
        answer["item_ids"], answer["candidate_ids"], answer["ranked_ids"], strict=True
    ):
        slate, candidates, ranked = ([item for item in ids if item] for ids in (slate, candidates, ranked))
        assert sorted(candidates) == sorted(ranked) and slate == ranked[: len(slate)]
