"""What an exported run would have shown to logged requests: the chance of each of its candidates, place by place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.operators.order_slate import OrderSlate
from ensemble.ordering import place_chances
from ensemble.pipeline import Pipeline, columns_of
from ensemble.request import FEATURE_TIME, Request
from pipelines.ope.shown_slates import ShownSlates

# B requests  k places of a slate  K candidates


@dataclass(frozen=True, eq=False)
class Chances:
    """Of some requests."""

    item_ids_BK: np.ndarray
    """object: the policy's candidates; "" pads."""
    chance_BkK: np.ndarray
    """Of each at each place, given that the items which the log shows stand above it."""
    given_Bk: np.ndarray
    """int64: which candidate the shown item is; -1 for none."""


class OtherPolicy:
    """Args:
    pipeline: an exported run's, opened with the configuration to evaluate.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        [self._order] = [one for one in pipeline.operators if isinstance(one, OrderSlate)]
        self._before = pipeline.operators[: pipeline.operators.index(self._order)]
        self.as_of = pipeline.as_of

    def chances(self, shown: ShownSlates) -> Chances:
        """Of a policy that is asked as the requests were, but follows its own temperature and diversity."""
        asked_B = np.where(shown.timestamp_B == shown.as_of_B, FEATURE_TIME, shown.timestamp_B)
        request = Request.of(
            shown.user_id, shown.k_B, shown.exclude, asked_B, allow=shown.allow, seed=0, with_candidates=True
        )
        columns = columns_of(request, self.as_of)
        for operator in self._before:
            columns = columns | operator.run(columns)
        row_BK, config = columns["candidate_row"], self._order.opened_config.ordering
        shown_Bk = np.full((len(shown), max(map(len, shown.slate_ids))), "", object)
        for row, slate in enumerate(shown.slate_ids):
            shown_Bk[row, : len(slate)] = slate
        shown_row_Bk = self._order.opened_catalogue.rows_of(shown_Bk)
        is_it_BkK = (shown_row_Bk[..., None] == row_BK[:, None, :]) & (shown_row_Bk >= 0)[..., None]
        given_Bk = np.where(is_it_BkK.any(2), is_it_BkK.argmax(2), -1)
        of_all_B = np.ones(len(shown), np.float32)  # as the request path has them
        chance_BkK = place_chances(
            row_BK,
            columns["score"],
            given_Bk,
            self._order.opened_items,
            of_all_B * np.float32(config.temperature),
            of_all_B * np.float32(config.diversity),
        )
        return Chances(self._order.opened_catalogue.ids_of(row_BK), chance_BkK, given_Bk)
