"""OrderSlate: k candidates of each user in the order in which they are shown, as raw ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ensemble.catalogue import Catalogue, load_item_vectors
from ensemble.item_filters import ATTRIBUTES
from ensemble.operators.fetch_user_features import SOURCE_NAMES
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.ordering import Items, ordered
from ensemble.ordering_items import boosts, groups
from ensemble.selection import NO_ITEM, top_k
from retrieval.popularity import NUM_COORDINATES


class OrderSlate(RequestOperator):
    """By `serving.ordering`: highest score first unless it says otherwise, equal scores by item row. `scores` are the
    ranker's, without boosts.

    Args:
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes.
        item_vectors: the retrieval stage's `item_vectors.parquet`.
        online: the etl stage's `online.json`.
    """

    outputs = {  # noqa: RUF012
        "item_ids": ("object", (None,)),
        "scores": (np.float32, (None,)),
        "propensities": (np.float32, (None,)),
        "num_lifted_caps": (np.int64, ()),
        "source_name": ("object", ()),
        "candidate_ids": ("object", (None,)),
        "ranked_ids": ("object", (None,)),
    }

    def __init__(self, items: Path, attributes: Path, item_vectors: Path, online: Path) -> None:
        files = {"items.parquet": items, ATTRIBUTES: attributes, "item_vectors.parquet": item_vectors}
        super().__init__(**files, **{"online.json": online})

    def run(self, columns: Columns) -> Columns:
        row_BK, score_BK = columns["candidate_row"], columns["score"]
        asks_B = columns["with_candidates"]
        ranked_BK, _ = top_k(row_BK, score_BK, np.where(asks_B, row_BK.shape[1], 0))
        slate_Bk, slate_score_Bk, propensity_Bk, num_lifted_B = self._slates(columns)
        ids_of = self.opened_catalogue.ids_of
        return {
            "item_ids": ids_of(slate_Bk),
            "scores": slate_score_Bk,
            "propensities": propensity_Bk,
            "num_lifted_caps": num_lifted_B,
            "source_name": SOURCE_NAMES[columns["source"]],
            "candidate_ids": ids_of(np.where(asks_B[:, None], row_BK[:, : ranked_BK.shape[1]], NO_ITEM)),
            "ranked_ids": ids_of(ranked_BK),
        }

    def open(self, folder: Path) -> None:
        config = self.opened_config.ordering
        self.opened_catalogue = Catalogue(folder / "items.parquet")
        items = pq.read_table(folder / "items.parquet")
        normalization = json.loads((folder / "online.json").read_text())
        self.opened_items = Items(
            boosts(config, items, normalization, folder / ATTRIBUTES),
            load_item_vectors(folder / "item_vectors.parquet")[:, :-NUM_COORDINATES],
            groups(config, items),
            np.array(list(config.caps.values()), np.int64),
        )
        self.opened_is_plain = not (config.caps or self.opened_items.boost_I.any())

    def _slates(self, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Item rows, scores and propensities [B, k], and how often a cap was lifted [B]."""
        config = self.opened_config.ordering
        row_BK, score_BK, k_B = columns["candidate_row"], columns["score"], columns["k"]
        temperature_B, diversity_B = (
            np.where(np.isnan(columns[name]), np.float32(default), columns[name])
            for name, default in (("temperature", config.temperature), ("diversity", config.diversity))
        )
        if self.opened_is_plain and not temperature_B.any() and not diversity_B.any():
            slate_Bk, score_Bk = top_k(row_BK, score_BK, k_B)
            return slate_Bk, score_Bk, (slate_Bk != NO_ITEM).astype(np.float32), np.zeros(len(k_B), np.int64)
        slates = ordered(
            row_BK, score_BK, k_B, self.opened_items, temperature_B, diversity_B, columns["seed"], columns["user"]
        )
        is_filled = slates.place_Bk >= 0
        if not row_BK.shape[1]:
            nothing = np.full(slates.place_Bk.shape, NO_ITEM)
            return nothing, nothing.astype(np.float32) - np.inf, slates.propensity_Bk, slates.num_lifted_B
        place_Bk = np.maximum(slates.place_Bk, 0)
        slate_Bk = np.where(is_filled, np.take_along_axis(row_BK, place_Bk, 1), NO_ITEM)
        score_Bk = np.where(is_filled, np.take_along_axis(score_BK, place_Bk, 1), np.float32(-np.inf))
        return slate_Bk, score_Bk, slates.propensity_Bk, slates.num_lifted_B
