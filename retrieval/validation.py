"""Validation of the retrieval model: what it would have found, on the day the validation part began."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact
from features.batches import Batch, FeatureTables
from features.history import EventLog
from features.schema import FIRST_KNOWN, UNSEEN
from features.split import VALID
from retrieval.aged_state import user_states
from retrieval.item_rows import ItemRows, padded_lists
from retrieval.metrics import RelevantItems, recall_at_k
from retrieval.popularity import PopularityTimeline
from retrieval.sources.source import Users
from retrieval.two_tower import TwoTower, item_vectors

# B users  I items  D embedding
_ID_COLUMNS = {"user_id": "user", "item_id": "item", "history": "item"}
_CHUNK = 1_024


class UnseenIds:
    """Replaces ids that do not appear before a moment by "unseen", as a model of that day would have them.

    Args:
        before: the moment in Unix seconds; the end of the train part if None.
    """

    def __init__(self, etl: Artifact, before: int | None = None) -> None:
        events = pq.read_table(etl.file("events.parquet"), columns=["user_row", "item_row", "timestamp"])
        in_train = events["timestamp"].to_numpy() < (etl.metrics["valid_from"] if before is None else before)
        self._as_seen = {
            entity: _as_seen(etl, entity, events[f"{entity}_row"].to_numpy()[in_train]) for entity in ("user", "item")
        }

    def __call__(self, batch: Batch) -> Batch:
        seen = {}
        for name, entity in _ID_COLUMNS.items():
            if name in batch:
                as_seen = self._as_seen[entity]
                seen[name] = as_seen[batch[name].clamp(max=len(as_seen) - 1)]
        return batch | seen


def _as_seen(etl: Artifact, entity: str, train_row: np.ndarray) -> torch.Tensor:
    """[ids] each id as itself, or UNSEEN if none of these rows has it."""
    id_of_row = pq.read_table(etl.file(f"{entity}s.parquet"), columns=[f"{entity}_id"])[f"{entity}_id"].to_numpy()
    as_seen = np.full(max(id_of_row.max(), FIRST_KNOWN) + 2, UNSEEN)  # the last stands for ids beyond
    as_seen[:FIRST_KNOWN] = np.arange(FIRST_KNOWN)
    as_seen[id_of_row[train_row]] = id_of_row[train_row]
    return torch.from_numpy(as_seen)


class Validation:
    """Recall on the validation part, as serving would see it: each user's state before the part begins.

    Args:
        max_users: a sample of that many users, drawn with the seed.
    """

    def __init__(
        self,
        etl: Artifact,
        tables: FeatureTables,
        popularity: PopularityTimeline,
        hidden: UnseenIds,
        recall_at: int,
        max_users: int,
        seed: int,
    ) -> None:
        events = pq.read_table(etl.file("events.parquet"))
        user_row, item_row, part = (events[name].to_numpy() for name in ("user_row", "item_row", "split"))
        valid = part == VALID
        valid_from = etl.metrics["valid_from"]
        users = np.unique(user_row[valid])
        if len(users) > max_users:
            users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
            valid &= np.isin(user_row, users)
        states = user_states(etl, tables, users, np.full(len(users), valid_from))
        self._batch = hidden(tables.user_features(torch.from_numpy(users)) | states)
        self._every_item = hidden(tables.items)
        self._rows = ItemRows(tables.items["item_id"].numpy())
        self._popularity_IP = popularity.at(valid_from)
        self._k = min(recall_at, etl.metrics["num_items"])
        pairs = np.unique(np.stack([np.searchsorted(users, user_row[valid]), item_row[valid]], 1), axis=0)
        self._seen = np.empty((2, 0), np.int64)
        if etl.manifest["config"]["drop_seen"]:
            log = EventLog.from_events(events, before=valid_from)
            self._seen = np.stack(log.items_before(users, np.full(len(users), valid_from)))
            pairs = _without(pairs, self._seen.T, etl.metrics["num_items"])
        self.relevant = RelevantItems.from_pairs(pairs[:, 0], pairs[:, 1], len(users))

    def item_vectors(self, model: TwoTower) -> np.ndarray:
        """[I, E] of the day the validation part began."""
        return item_vectors(model, self._every_item, self._popularity_IP)

    @torch.no_grad()
    def users(self, model: TwoTower) -> Users:
        """The validation users as they ask the candidate sources on that day."""
        features = {name: values.numpy() for name, values in self._batch.items()}
        history_BN = self._rows.of_ids(features["history"])
        forbidden_BS = padded_lists(*self._seen, num_lists=len(history_BN))
        return Users(features, history_BN, forbidden_BS, model.query_vectors(self._batch).numpy())

    @torch.no_grad()
    def recall(self, model: TwoTower) -> float:
        """Mean recall over the validation users, the full catalogue ranked, by a model in eval mode."""
        item_ID = torch.from_numpy(self.item_vectors(model))
        query_BD = model.query_vectors(self._batch)
        ranked = []
        for begin in range(0, len(query_BD), _CHUNK):
            score_BI = query_BD[begin : begin + _CHUNK] @ item_ID.T
            user, item = self._seen[:, slice(*np.searchsorted(self._seen[0], [begin, begin + _CHUNK]))]
            score_BI[user - begin, item] = -torch.inf
            ranked.append(score_BI.topk(self._k).indices)
        return float(np.nanmean(recall_at_k(torch.cat(ranked).numpy(), self.relevant, self._k)))


def _without(pairs: np.ndarray, removed: np.ndarray, num_items: int) -> np.ndarray:
    return pairs[~np.isin(pairs @ [num_items, 1], removed @ [num_items, 1])]
