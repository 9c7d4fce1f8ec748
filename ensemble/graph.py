"""The request path: one chain, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from merlin.dag import postorder_iter_nodes
from merlin.schema import ColumnSchema, Schema
from merlin.systems.dag import Ensemble

from ensemble.operators.encode_query import EncodeQuery
from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.operators.fill_candidates import FillCandidates
from ensemble.operators.forbid_items import ForbidItems
from ensemble.operators.keep_allowed import KeepAllowed
from ensemble.operators.merge_candidates import MergeCandidates
from ensemble.operators.operator import RequestOperator
from ensemble.operators.order_slate import OrderSlate
from ensemble.operators.recall_slates import RecallSlates
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.operators.score_candidates import ScoreCandidates

REQUEST_SCHEMA = Schema(
    [
        ColumnSchema("user", dtype="object", dims=(None,)),
        ColumnSchema("k", dtype=np.int64, dims=(None,)),
        ColumnSchema("exclude", dtype="object", dims=(None, None)),
        ColumnSchema("allow", dtype="object", dims=(None, None)),
        ColumnSchema("timestamp", dtype=np.int64, dims=(None,)),
        ColumnSchema("seed", dtype=np.int64, dims=(None,)),
        ColumnSchema("temperature", dtype=np.float32, dims=(None,)),
        ColumnSchema("diversity", dtype=np.float32, dims=(None,)),
        ColumnSchema("deadline", dtype=np.float64, dims=(None,)),
        ColumnSchema("with_candidates", dtype=bool, dims=(None,)),
    ]
)


@dataclass(frozen=True)
class GraphFiles:
    """What the stages made and the request path reads."""

    store: Path
    schema: Path
    online: Path
    items: Path
    attributes: Path
    query_encoder: Path
    item_vectors: Path
    sources: Path
    index: Path
    ranker: Path


def request_graph(files: GraphFiles, num_candidates: int, drop_seen: bool) -> Ensemble:
    """query features -> query vector -> what is forbidden -> proposals -> candidates -> scores -> slate.

    Args:
        num_candidates: candidates that are scored for each user.
        drop_seen: whether a user's past items are forbidden.
    """
    path = REQUEST_SCHEMA.column_names >> FetchUserFeatures(files.store, files.schema)
    path = path >> EncodeQuery(files.query_encoder)
    path = path >> ForbidItems(files.items, files.attributes, drop_seen)
    path = path >> RetrieveCandidates(
        files.index, files.query_encoder, files.sources, files.items, files.attributes, num_candidates
    )
    path = path >> MergeCandidates(files.sources)
    path = path >> RecallSlates(files.items, files.attributes)
    path = path >> KeepAllowed(files.items, files.attributes, files.item_vectors)
    path = path >> FillCandidates(files.items, files.attributes)
    path = path >> ScoreCandidates(files.ranker, files.items, files.item_vectors, files.sources, files.online)
    path = path >> OrderSlate(files.items, files.attributes, files.item_vectors, files.online)
    return Ensemble(path, REQUEST_SCHEMA)


def operators_of(ensemble: Ensemble) -> list[RequestOperator]:
    """The operators of a request graph, first to last."""
    nodes = postorder_iter_nodes(ensemble.graph.output_node)
    return [node.op for node in nodes if isinstance(node.op, RequestOperator)]
