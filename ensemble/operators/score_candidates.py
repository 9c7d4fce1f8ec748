"""ScoreCandidates: the ranker's score of every candidate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ensemble.catalogue import Catalogue, ItemColumns, array_of, load_item_vectors
from ensemble.deadline import seconds_left
from ensemble.guard import StageError, guard_of
from ensemble.onnx_model import OnnxModel
from ensemble.operators.fetch_user_features import DEGRADED, FALLBACK, UNRANKED
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.user_threads import each_part
from features.history import SECONDS_PER_DAY
from features.log_scale import normalized_log
from ranking.pair_features import ABSOLUTE, TWO_TOWER_SCORE, affinity_name, source_feature
from ranking.taste import affinities, attributes_at, in_demand, relative_numbers, similarities
from retrieval.candidates import source_names
from retrieval.item_rows import ItemRows
from retrieval.popularity import NUM_COORDINATES, NUM_WINDOWS

# B users  K candidates  D embedding
NO_ITEM = -1
_READ = ("candidate_row", "candidate_sources", "query_vector", "history", "last_timestamp", "timestamp")


class ScoreCandidates(RequestOperator):
    """The ranker over (user, item, moment). Users of whom nothing is known get the items' popularity as score. If the
    ranker is slow or fails, candidates keep the order of retrieval, and the users are `unranked`.

    Args:
        model: the ranking stage's `ranker.onnx`.
        items: the etl stage's `items.parquet`.
        item_vectors: the retrieval stage's `item_vectors.parquet`.
        sources: the retrieval stage's `sources`.
        online: the etl stage's `online.json`: how it normalised what must be computed anew for each request.
    """

    outputs = {"score": (np.float32, (None,)), "source": (np.int64, ())}  # noqa: RUF012

    def __init__(self, model: Path, items: Path, item_vectors: Path, sources: Path, online: Path) -> None:
        super().__init__(
            **{
                "ranker.onnx": model,
                "items.parquet": items,
                "item_vectors.parquet": item_vectors,
                "sources": sources,
                "online.json": online,
            }
        )

    def run(self, columns: Columns) -> Columns:
        row_BK, source_B = columns["candidate_row"], columns["source"]
        if not row_BK.shape[1]:
            return {"score": np.empty(row_BK.shape, np.float32), "source": source_B}
        is_ranked_B = source_B < FALLBACK
        score_BK = np.empty(row_BK.shape, np.float32)
        if is_ranked_B.any():
            try:
                score_BK = self.opened_guard.call(
                    self._ranked, columns, within_seconds=seconds_left(columns["deadline"])
                )
            except StageError:
                source_B = np.where(is_ranked_B, UNRANKED, source_B)
                is_ranked_B = np.zeros_like(is_ranked_B)
        if not is_ranked_B.all():
            score_BK = np.where(is_ranked_B[:, None], score_BK, self._without_ranker(columns, source_B))
        return {"score": np.where(row_BK == NO_ITEM, np.float32(-np.inf), score_BK), "source": source_B}

    def inputs_of(self, columns: Columns) -> Columns:
        """The columns with what the ranker reads of the candidates besides."""
        return columns | self._of_the_moment(columns) | self._of_the_items(columns)

    def _ranked(self, columns: Columns) -> np.ndarray:
        """[B, K] the ranker's scores."""
        row_BK = columns["candidate_row"]
        score_BK = np.empty(row_BK.shape, np.float32)
        read = {name: columns[name] for name in self.opened_read & columns.keys()}

        def score(part: slice) -> None:
            some = {name: values[part] for name, values in read.items()}
            score_BK[part] = self.opened_model.run(self.inputs_of(some), rows_per_user=row_BK.shape[1])

        each_part(len(row_BK), score)
        return score_BK

    def _without_ranker(self, columns: Columns, source_B: np.ndarray) -> np.ndarray:
        """[B, K] popularity for users of whom nothing is known; for others the order of retrieval, and behind it the
        items that nobody proposed, whose score there is 0, the popular ones first."""
        popularity_BK = self.opened_items.popularity[columns["candidate_row"]]
        proposed_BK = columns["retrieval_score"]
        in_order_BK = np.where(proposed_BK > 0, proposed_BK, popularity_BK - 1)
        has_popular_B1 = ((source_B == FALLBACK) | (source_B == DEGRADED))[:, None]
        return np.where(has_popular_B1, popularity_BK, in_order_BK)

    def _of_the_moment(self, columns: Columns) -> Columns:
        last_B = columns["last_timestamp"]
        recency_B = np.where(last_B >= 0, np.maximum(columns["timestamp"] - last_B, 0) / SECONDS_PER_DAY, 0.0)
        mean, deviation = self.opened_normalization["user_recency_days"]
        return {"user_recency_days": normalized_log(recency_B, mean, deviation)}

    def _of_the_items(self, columns: Columns) -> Columns:
        row_BK = columns["candidate_row"]
        some_BK = np.maximum(row_BK, 0)
        item_BKD = self.opened_vectors[some_BK]
        # One product a pair, not a matrix product: its rounding does not depend on how many pairs there are.
        score_BK = np.einsum("bkd,bd->bk", item_BKD, columns["query_vector"])
        said_SBK = np.ascontiguousarray(np.moveaxis(columns["candidate_sources"], -1, 0))
        said = dict(zip(map(source_feature, self.opened_sources), said_SBK, strict=True))
        history_BN = self.opened_rows.of_ids(columns["history"])
        taste = similarities(row_BK, history_BN, self.opened_vectors[:, :-NUM_COORDINATES])
        taste |= affinities(row_BK, history_BN, self.opened_attributes)
        features = self.opened_items.features_of(row_BK) | self.opened_relative.at(some_BK)
        return features | said | {TWO_TOWER_SCORE: score_BK} | taste

    def open(self, folder: Path) -> None:
        deadlines = self.opened_config.deadlines
        self.opened_guard = guard_of("ranker", deadlines.ranker_ms, deadlines)
        self.opened_model = OnnxModel(folder / "ranker.onnx")
        self.opened_read = {*self.opened_model.inputs, *_READ}
        self.opened_items = Catalogue(folder / "items.parquet", self.opened_model.inputs)
        self.opened_vectors = load_item_vectors(folder / "item_vectors.parquet")
        self.opened_sources = source_names(folder / "sources")
        items = pq.read_table(folder / "items.parquet")
        self.opened_rows = ItemRows(items["item_id"].to_numpy())
        number_I = {name: items[name].to_numpy() for name in ABSOLUTE if name in items.column_names}
        windows = slice(-NUM_COORDINATES, NUM_WINDOWS - NUM_COORDINATES)
        self.opened_relative = ItemColumns(relative_numbers(number_I, self.opened_vectors[:, windows]))
        read = set(self.opened_model.inputs)
        values = {name: array_of(items[name]) for name in items.column_names if affinity_name(name) in read}
        self.opened_attributes = attributes_at(values, in_demand(self.opened_vectors[:, windows]))
        self.opened_normalization = json.loads((folder / "online.json").read_text())
