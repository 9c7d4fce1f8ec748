"""What may be shown to anybody at a moment: the rules and the stock as one mask over the items.

The operators of a pipeline share one ItemFilters, and name the state that a request began with by its number, so that
all of them see the same one while the stock changes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.filter_config import FilterConfig
from ensemble.item_rules import RuleError, mask_of
from ensemble.stock import read_stock, watch_stock

# I items
ATTRIBUTES = "item_attributes.parquet"
"""The items' raw attributes, row i = item row i, in the exported folder."""
SUPPOSED = -1
"""Number of the state that `ItemFilters.suppose` makes."""
_NUM_KEPT = 16
"""States kept for requests that began with them: far more than come within the time of a request."""


@dataclass(frozen=True, eq=False)
class FilterState:
    """What held at a moment; never changes."""

    number: int
    allowed_I: np.ndarray | None
    """bool; None for everything. The same array as long as nothing changes: searches keep what they derive from it."""
    num_against_rules: int
    """Items that a rule keeps from everybody."""
    num_out_of_stock: int
    in_stock_I: np.ndarray | None
    """bool; None without a stock table."""


class ItemFilters:
    """Args:
        attributes: the items' raw attributes.

    Raises: RuleError naming the rule; StockError.
    """

    def __init__(self, config: FilterConfig, attributes: pa.Table) -> None:
        self._states: dict[int, FilterState] = {}
        """By number, the newest last; replaced as a whole."""
        self._changing = threading.Lock()
        self._supposed: FilterState | None = None
        self._by_rules_I: np.ndarray | None = None
        for name, rule in config.rules.items():
            try:
                mask_I = mask_of(rule, attributes)
            except RuleError as error:
                raise RuleError(f"serving.filters.rules.{name}: {error}") from error
            self._by_rules_I = mask_I if self._by_rules_I is None else self._by_rules_I & mask_I
        self._set(None)
        if config.stock.file:
            ids = attributes["item_id"].to_pylist()
            row_of_id = {str(item_id): row for row, item_id in enumerate(ids)}
            watch_stock(config.stock, lambda: read_stock(config.stock, row_of_id, len(row_of_id)), self._set)

    @property
    def now(self) -> FilterState:
        """What holds now."""
        return next(reversed(self._states.values()))

    def state(self, number: int) -> FilterState:
        """The state of that number, or what holds now if it is long gone."""
        return self._states.get(number) or (self._supposed if number == SUPPOSED else None) or self.now

    def suppose(self, by_rules_I: np.ndarray | None) -> FilterState:
        """What would hold now with other rules. It never is `now`; until the next one, `state` gives it by its number.

        Args:
            by_rules_I: bool, the items for which the rules hold; None without rules.
        """
        self._supposed = _state(SUPPOSED, by_rules_I, self.now.in_stock_I)
        return self._supposed

    def at(self, number_B: np.ndarray) -> FilterState:
        """The state that the users of a call began with: the same one for all of them."""
        return self.state(int(number_B[0]))

    def _set(self, by_stock_I: np.ndarray | None) -> None:
        with self._changing:
            number = self.now.number + 1 if self._states else 0
            state = _state(number, self._by_rules_I, by_stock_I)
            self._states = dict([*self._states.items(), (number, state)][-_NUM_KEPT:])


def _state(number: int, by_rules_I: np.ndarray | None, in_stock_I: np.ndarray | None) -> FilterState:
    masks = [mask_I for mask_I in (by_rules_I, in_stock_I) if mask_I is not None]
    num_against_rules, num_out_of_stock = (
        0 if mask_I is None else int((~mask_I).sum()) for mask_I in (by_rules_I, in_stock_I)
    )
    allowed_I = np.logical_and.reduce(masks) if masks else None
    return FilterState(number, allowed_I, num_against_rules, num_out_of_stock, in_stock_I)


_OPENED: dict[tuple[Path, str], ItemFilters] = {}


def filters_of(folder: Path, config: FilterConfig) -> ItemFilters:
    """The filters of an exported folder: one for all operators of a pipeline.

    Raises: RuleError; StockError.
    """
    key = folder.resolve(), repr(config)
    if key not in _OPENED:
        _OPENED[key] = ItemFilters(config, pq.read_table(folder / ATTRIBUTES))
    return _OPENED[key]
