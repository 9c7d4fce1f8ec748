"""How long does one user wait, against the ensemble of Merlin's own multi-stage example? A real Triton each, gRPC.

The peer is Merlin Systems 23.8 as its example joins the operators: QueryFeast (users) >> TransformWorkflow >> query
tower >> QueryFaiss >> QueryFeast (items) >> TransformWorkflow >> UnrollFeatures >> ranker >> SoftmaxSampling, exported
by `TritonExecutorRuntime` to its executor model. Both serve the same run: the same catalogue, the same two ONNX files,
the same number of candidates and of items in a slate. Both have one thread a library, both are warmed, and they are
asked in turn.

The smallest repairs, without which it does not run today or not on a CPU:
  ids         QueryFeast calls int() on ids, and QueryFaiss makes them int32: users and items are asked by row number
  text        QueryFeast knows no text features: the store holds category codes, as Merlin's example does too
  models      PredictPyTorch and PredictTensorflow take no ONNX: an operator around onnxruntime, in its own process
  shapes      the ranker's user side is read from the first of the unrolled rows
  Dask        the server's environment turns Dask's query planning off
`setup_faiss` is its own: IVF32,Flat with 8 probes.

Kindnesses to the peer: ids and histories stand encoded in its store, and its workflows encode and normalise only what
is left, so that no table of 100,000 categories is read for a request; features that it cannot compute (what the
candidate sources said, taste, relative popularity) are constants. And beside the stock ensemble runs a lean one, which
nobody gets from Merlin: without workflows, over a store that holds every feature encoded, with an executor that runs
an operator once a request (Merlin's runs the user's operators four times and the items' twice, once for each path
through the graph). The goal is held against the faster of the two.

What the peer does less: no filters (a user's past items come back), one candidate source, an approximate index, one
user a call, no k in the request, no fallback for a user whom it does not know, a slate drawn at random.

Prints one JSON line a question: python benchmarks/serving_merlin.py [RUN_FOLDER]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"  # Merlin 23.8 needs the legacy dataframe
os.environ["OMP_NUM_THREADS"] = "1"  # both servers inherit it

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int32, Int64
from merlin.dag import BaseOperator
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema
from merlin.systems.dag import Ensemble
from merlin.systems.dag.ops.faiss import QueryFaiss, setup_faiss
from merlin.systems.dag.ops.feast import QueryFeast
from merlin.systems.dag.ops.softmax_sampling import SoftmaxSampling
from merlin.systems.dag.ops.unroll_features import UnrollFeatures
from merlin.systems.dag.ops.workflow import TransformWorkflow
from merlin.systems.dag.runtimes.triton import TritonExecutorRuntime
from merlin.table import TensorTable
from nvtabular import Workflow
from nvtabular.ops import Categorify, Normalize
from serving_measure import NUM_CANDIDATES, K, fresh_server, say, serving_run

from ensemble.client import RecommendClient
from ensemble.triton_config import MODEL_NAME
from features.schema import FIRST_KNOWN

NUM_CALLS = 300
NUM_WARM_UP = 30
GOAL = 0.2
PEERS = ("stock", "lean")
USER_KEY, ITEM_KEY = "user_key", "item_key"


EACH_OPERATOR_ONCE = """

from merlin.dag.executors import LocalExecutor

_execute_node = LocalExecutor._execute_node


def _execute_once(self, node, *arguments, **named):  # the executor model makes an executor a request
    done = self.__dict__.setdefault("done", {})
    if id(node) not in done:
        done[id(node)] = _execute_node(self, node, *arguments, **named)
    return done[id(node)]


LocalExecutor._execute_node = _execute_once
"""


class OnnxModel(BaseOperator):
    """An ONNX model for one user, or for one user and the candidates: the wrapper that Merlin lacks.

    Args:
        path: the model.
        output: column that it adds; nothing else is passed on.
    """

    def __init__(self, path: Path, output: str) -> None:
        super().__init__()
        self.path, self.output = str(path), output
        self.session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"session": None}

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        self.inputs = {
            node.name: (len(node.shape), np.int64 if node.type == "tensor(int64)" else np.float32)
            for node in self.session.get_inputs()
        }

    def transform(self, col_selector: Any, transformable: Any) -> Any:
        given = {}
        for name, (num_dimensions, dtype) in self.inputs.items():
            if name not in transformable:  # what the stock operators cannot compute
                given[name] = np.zeros((1, NUM_CANDIDATES), dtype)
                continue
            values = transformable[name].values
            if values.dtype == object:  # a list column that went through pandas
                values = np.concatenate(values)
            values = values.astype(dtype, copy=False)
            given[name] = values.reshape(1, -1) if num_dimensions == 2 else values.ravel()[:1]
        (result,) = self.session.run(None, given)
        return TensorTable({self.output: result if self.output == "query_vector" else result.ravel()})

    def compute_output_schema(self, input_schema: Any, col_selector: Any, prev_output_schema: Any = None) -> Schema:
        return Schema([ColumnSchema(self.output, dtype=np.float32, dims=(None,))])


def main(run: Path) -> None:
    raw_ids = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    users = np.random.default_rng(1).integers(0, len(raw_ids), NUM_CALLS + NUM_WARM_UP)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-merlin-")))
        stock = stack.enter_context(merlin_server(folder / "stock", run, is_lean=False))
        lean = stack.enter_context(merlin_server(folder / "lean", run, is_lean=True))
        server = stack.enter_context(fresh_server(run))
        client = stack.enter_context(RecommendClient(server.grpc_url, timeout_seconds=60))
        calls = {
            "cascade": lambda number: client.recommend([raw_ids[users[number]]], k=K),
            "stock": lambda number: stock(users[number]),
            "lean": lambda number: lean(users[number]),
        }
        times = alternating(calls, NUM_CALLS)
    p50 = {name: float(np.median(taken)) for name, taken in times.items()}
    p99 = {name: float(np.quantile(taken, 0.99)) for name, taken in times.items()}
    best = min(PEERS, key=lambda name: p50[name])
    size = {"size": json.loads((run / "etl" / "manifest.json").read_text())["metrics"]["num_items"], "runs": NUM_CALLS}
    repairs = {"repairs": "integer ids, category codes for text, ONNX operator, CPU FAISS; see the docstring"}
    for name in PEERS:
        goal = GOAL if name == best else None
        question = f"p50 of one user a call, against Merlin Systems 23.8 ({name})"
        say("serving_merlin", question, p50["cascade"], p50[name], "ms", goal, **size, **repairs)
    say("serving_merlin", f"p99 of the same, against {best}", p99["cascade"], p99[best], "ms", None, **size, **repairs)


def alternating(calls: dict[str, Callable[[int], object]], num_calls: int) -> dict[str, list[float]]:
    """Milliseconds of each call, the contestants in turn; what warms them up is left out."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(num_calls + NUM_WARM_UP):
        for name, call in calls.items():
            begun = time.perf_counter()
            call(number)
            taken[name].append((time.perf_counter() - begun) * 1e3)
    return {name: times[NUM_WARM_UP:] for name, times in taken.items()}


@contextmanager
def merlin_server(folder: Path, run: Path, is_lean: bool) -> Iterator[Callable[[int], None]]:
    """A Triton with the peer's ensemble; yields what asks it for one user's slate."""
    import tritonclient.grpc as triton

    repository = folder / "repository"
    ensemble = merlin_ensemble(run, merlin_store(folder / "store", run, is_lean), folder / "items.faiss", is_lean)
    TritonExecutorRuntime().export(ensemble, str(repository), name=MODEL_NAME)  # the model that our server waits for
    if is_lean:
        with (repository / MODEL_NAME / "1" / "model.py").open("a") as model:
            model.write(EACH_OPERATOR_ONCE)
    with fresh_server(run, repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)

        def ask(user: int) -> None:
            tensor = triton.InferInput(USER_KEY, [1], "INT64")
            tensor.set_data_from_numpy(np.array([user]))
            ids = client.infer(MODEL_NAME, [tensor]).as_numpy("ordered_ids")
            if ids.shape != (1, K):
                raise RuntimeError(f"the stock ensemble must return [1, {K}] items, got {ids.shape}")

        yield ask
        client.close()


def merlin_ensemble(run: Path, store: FeatureStore, index: Path, is_lean: bool) -> Ensemble:
    """The graph of Merlin's multi-stage example, over the run's models and vectors."""
    retrieval, ranking = run / "retrieval", run / "ranking"
    vectors = pq.read_table(retrieval / "item_vectors.parquet")["vector"].combine_chunks()
    vectors = vectors.values.to_numpy().reshape(len(vectors), -1)
    setup_faiss(pd.DataFrame({"item_id": np.arange(len(vectors)), "embedding": list(vectors)}), str(index))
    user_columns, item_columns = features_of(run)
    user = [USER_KEY] >> QueryFeast.from_feature_view(store, "users", USER_KEY, include_id=True)
    if not is_lean:
        user = user >> TransformWorkflow(workflow(user_columns, USER_KEY, np.int64, index.parent))
    candidates = user >> OnnxModel(retrieval / "query_encoder.onnx", "query_vector")
    candidates = candidates >> QueryFaiss(index, topk=NUM_CANDIDATES)
    items = candidates["candidate_ids"] >> QueryFeast.from_feature_view(
        store, "items", "candidate_ids", include_id=True
    )
    if not is_lean:
        items = items >> TransformWorkflow(workflow(item_columns, ITEM_KEY, np.int32, index.parent))
    unrolled = [name for name in user_columns.columns if name not in ("history", "user_id")]
    pairs = items >> UnrollFeatures(ITEM_KEY, user[unrolled])
    scores = pairs >> OnnxModel(ranking / "ranker.onnx", "score")
    slate = pairs[ITEM_KEY] >> SoftmaxSampling(relevance_col=scores["score"], topk=K)
    return Ensemble(slate, Schema([ColumnSchema(USER_KEY, dtype=np.int64)]))


def merlin_store(folder: Path, run: Path, is_encoded: bool) -> FeatureStore:
    """A Feast store on SQLite with the views `users` and `items`, as the example defines them.

    Args:
        is_encoded: hold features as the models read them, not as a workflow does.
    """
    folder.mkdir(parents=True)
    config = {
        "project": "merlin",
        "provider": "local",
        "registry": "registry.db",
        "entity_key_serialization_version": 3,
    }
    config["online_store"] = {"type": "sqlite", "path": "online.db"}
    (folder / "feature_store.yaml").write_text(json.dumps(config))  # JSON is YAML
    store = FeatureStore(repo_path=str(folder))
    users, items = features_of(run)
    for view, key, dtype, table in (("users", USER_KEY, np.int64, users), ("items", ITEM_KEY, np.int32, items)):
        stored = (table if is_encoded else raw(table)).assign(
            **{key: np.arange(len(table), dtype=dtype), "event_timestamp": datetime.now(UTC)}
        )
        stored["event_timestamp"] -= timedelta(hours=1)
        stored.to_parquet(folder / f"{view}.parquet")
        entity = Entity(name=key, join_keys=[key], value_type=ValueType[np.dtype(dtype).name.upper()])
        fields = [Field(name=name, dtype=feast_type(table[name])) for name in table.columns]
        source = FileSource(path=str(folder / f"{view}.parquet"), timestamp_field="event_timestamp")
        schema = [Field(name=key, dtype=Int64 if dtype == np.int64 else Int32), *fields]
        store.apply([entity, FeatureView(name=view, entities=[entity], ttl=timedelta(0), schema=schema, source=source)])
    return store


def features_of(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the two models read of users and of items and the run has stored: encoded, a row each."""
    read = {
        node.name
        for path in (run / "retrieval" / "query_encoder.onnx", run / "ranking" / "ranker.onnx")
        for node in onnxruntime.InferenceSession(str(path)).get_inputs()
    }
    users, items = (pq.read_table(run / "etl" / f"{name}.parquet") for name in ("users", "items"))
    users = users.select([name for name in users.column_names if name in read]).to_pandas()
    items = items.select([name for name in items.column_names if name in read]).to_pandas()
    return users.assign(user_recency_days=np.float32(0)), items


def raw(table: pd.DataFrame) -> pd.DataFrame:
    """The table as a log would have it: categories as codes from 0, what the workflow encodes again."""
    return table.assign(**{name: table[name] - FIRST_KNOWN for name in categories(table)})


def categories(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if table[name].dtype == np.int64 and not name.endswith("_id")]


def workflow(table: pd.DataFrame, key: str, key_type: type, folder: Path) -> Workflow:
    """Encodes categories to the very ids that the models were trained with, normalises numbers, passes on the rest."""
    names = categories(table)
    numbers = [name for name in table.columns if table[name].dtype == np.float32]
    vocabulary = {name: pd.Series(np.arange(table[name].max() + 1 - FIRST_KNOWN)) for name in names}
    normalized = Normalize(out_dtype=np.float32)
    graph = (names >> Categorify(vocabs=vocabulary, dtype=np.int64, out_path=str(folder))) + (numbers >> normalized)
    graph += [key, *(name for name in table.columns if name not in {*names, *numbers})]
    fitted = Workflow(graph)
    fitted.fit(Dataset(raw(table).assign(**{key: np.arange(len(table), dtype=key_type)})))
    normalized.means, normalized.stds = dict.fromkeys(numbers, 0.0), dict.fromkeys(numbers, 1.0)  # they are already
    return fitted


def feast_type(column: pd.Series) -> Any:
    if column.dtype == object:
        return Array(Int64)
    return Int64 if column.dtype == np.int64 else Float32


if __name__ == "__main__":
    main(serving_run(sys.argv))
