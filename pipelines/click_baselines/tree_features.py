"""Impressions as trees read them: one matrix of numbers and categories, or click rates in the categories' place.

A tree over ids of many levels splits on few of them at a time. Statistics of each id give it all levels in one number;
in the train part they are taken out of fold, so that no row sees its own label.
Source: Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD Explorations 2001;
Prokhorenkova et al., "CatBoost: unbiased boosting with categorical features", NeurIPS 2018, sec. 3.2, on the leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from merlin.schema import Schema, Tags

from features.schema import PADDING, list_length, num_categories, select
from ranking.clicks.batches import ClickBatches

# N rows  F numbers  C plain categories  P places of a category: 1, or the length of a list  W ids of one category
# X columns of a matrix

Categories = Literal["native", "rates", "both"]
"""Ids as categories, click rate and count of each id, or both. A list has no ids there, but always the means of the
rates and counts of its elements, and its length."""
FOLDS = 5
PRIOR_ROWS = 20.0
"""Rows of the overall click rate that each id starts out with."""


@dataclass(frozen=True, eq=False)
class TreePart:
    """One part of the examples in memory."""

    number_NF: np.ndarray
    """[N, F] float32."""
    plain: dict[str, np.ndarray]
    """[N, 1] int32 ids of each category."""
    lists: dict[str, np.ndarray]
    """[N, P] int32 ids of each list, filled up with PADDING."""
    label_N: np.ndarray
    """[N] 0 or 1, float32."""

    @classmethod
    def of(cls, batches: ClickBatches, schema: Schema) -> TreePart:
        """All rows in file order."""
        numbers, categories = select(schema, Tags.CONTINUOUS).column_names, select(schema, Tags.CATEGORICAL)
        num_rows = batches.num_rows
        places = {column.name: (num_rows, list_length(column) or 1) for column in categories}
        id_NP = {name: np.empty(shape, np.int32) for name, shape in places.items()}
        number_NF, label_N = np.empty((num_rows, len(numbers)), np.float32), np.empty(num_rows, np.float32)
        begin = 0
        for batch in batches.in_order():
            rows = slice(begin, begin + len(batch[batches.label]))
            begin = rows.stop
            label_N[rows] = batch[batches.label].numpy()
            for place, name in enumerate(numbers):
                number_NF[rows, place] = batch[name].numpy()
            for name, ids in id_NP.items():
                ids[rows] = batch[name].numpy().reshape(-1, ids.shape[1])
        lists = {column.name: id_NP[column.name] for column in categories if column.is_list}
        plain = {name: ids for name, ids in id_NP.items() if name not in lists}
        return cls(number_NF, plain, lists, label_N)


class TreeFeatures:
    """Statistics of the train part's ids, and matrices made with them.

    Args:
        fitted: the train part.
        seed: of the folds.
    """

    def __init__(self, schema: Schema, fitted: TreePart, seed: int) -> None:
        self._fitted = fitted
        self._num_ids = {column.name: num_categories(column) for column in select(schema, Tags.CATEGORICAL)}
        self._fold_N = np.random.default_rng(seed).integers(0, FOLDS, len(fitted.label_N))
        self._prior = float(fitted.label_N.mean(dtype=np.float64))

    def matrix(self, part: TreePart, categories: Categories) -> np.ndarray:
        """[N, X] float32: the numbers, then the ids unless `rates`, then what is known of the ids."""
        blocks = [part.number_NF]
        if categories != "rates":
            blocks += [ids.astype(np.float32) for ids in part.plain.values()]
        if categories != "native":
            blocks += [self._statistics(part, name, ids) for name, ids in part.plain.items()]
        for name, ids in part.lists.items():
            length_N = (ids != PADDING).sum(axis=1, keepdims=True)
            blocks += [self._statistics(part, name, ids), length_N.astype(np.float32)]
        return np.concatenate(blocks, axis=1)

    def categorical(self, categories: Categories) -> list[int]:
        """Columns of `matrix` that hold ids."""
        num_numbers = self._fitted.number_NF.shape[1]
        return [] if categories == "rates" else list(range(num_numbers, num_numbers + len(self._fitted.plain)))

    def _statistics(self, part: TreePart, name: str, id_NP: np.ndarray) -> np.ndarray:
        """[N, 2] smoothed click rate and count of each row's id; of a list the means over its elements."""
        fitted_NP, num_ids = {**self._fitted.plain, **self._fitted.lists}[name], self._num_ids[name]
        clicks_NP = np.broadcast_to(self._fitted.label_N[:, None], fitted_NP.shape).ravel()
        rows_W = np.bincount(fitted_NP.ravel(), minlength=num_ids).astype(np.float64)
        clicks_W = np.bincount(fitted_NP.ravel(), clicks_NP, num_ids)
        row_NP, click_NP = rows_W[id_NP], clicks_W[id_NP]
        if part is self._fitted:
            cell_NP = fitted_NP.astype(np.int64) * FOLDS + self._fold_N[:, None]
            row_NP = row_NP - np.bincount(cell_NP.ravel(), minlength=num_ids * FOLDS)[cell_NP]
            click_NP = click_NP - np.bincount(cell_NP.ravel(), clicks_NP, num_ids * FOLDS)[cell_NP]
        rate_NP = (click_NP + PRIOR_ROWS * self._prior) / (row_NP + PRIOR_ROWS)
        if part is self._fitted:  # counts as large as they are for a row that was not counted itself
            row_NP = row_NP * FOLDS / (FOLDS - 1)
        is_real_NP = (id_NP != PADDING) if name in part.lists else np.ones(id_NP.shape, bool)
        num_real_N = np.maximum(is_real_NP.sum(axis=1), 1)
        means = [(values_NP * is_real_NP).sum(axis=1) / num_real_N for values_NP in (rate_NP, row_NP)]
        return np.stack(means, axis=1).astype(np.float32)
