"""Explorer: what a finished run says of its users and items, and what its request path does for them."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ensemble.config import ServingConfig
from ensemble.deadline import DeadlineConfig
from ensemble.item_filters import ATTRIBUTES
from ensemble.item_rules import mask_of
from ensemble.operators.fetch_user_features import COLD, PERSONAL
from ensemble.pipeline import Pipeline
from ensemble.what_if import Steps, WhatIf
from features.artifact import Artifact, open_artifact
from pipelines.config import CascadeConfig
from pipelines.explore.images import Images
from pipelines.explore.question import ExploreError, Question
from pipelines.explore.reasons import (
    FORBIDDEN,
    NOT_PROPOSED,
    NOT_SCORED,
    OUTRANKED,
    SHOWN,
    Answered,
    Filter,
    Proposal,
    Ranks,
)
from pipelines.explore.run_tables import RunTables, User
from pipelines.explore.score_parts import Attribution, ScoreParts
from pipelines.similar import SimilarError, similar_items

# K candidates  k places of the slate  I items
NUM_NEXT = 10
"""Items shown behind the slate."""
MAX_DEPTH = 10_000
"""Proposals of a source that are looked through for an item that it did not propose."""
MAX_SIMILAR = 100
NUM_EXAMPLES = 3
"""Users that the page names before one is chosen."""
_PATIENT = DeadlineConfig(default_ms=0, store_ms=60_000, candidates_ms=60_000, ranker_ms=60_000)
_ONE_AT_A_TIME = threading.Lock()
"""Requests that suppose other rules share what they suppose with the pipeline's operators."""


@dataclass(frozen=True)
class Item:
    """An item as one shows it."""

    id: str
    title: str
    attributes: dict[str, Any]
    has_image: bool


@dataclass(frozen=True)
class Placed:
    """An item of a slate, or behind it."""

    item: Item
    score: float | None
    propensity: float | None
    """None of an item behind the slate."""
    ranks: Ranks
    proposals: list[Proposal]


@dataclass(frozen=True)
class Slate:
    """What a user would get."""

    source: str
    """personal, cold or fallback, as in a reply."""
    items: list[Placed]
    next: list[Placed]
    """The best-scored candidates that are not in it."""
    num_candidates: int
    num_removed: dict[str, int]
    """Items of the catalogue that each filter keeps from the user."""
    query_cosine: float
    """Of the query vector with the one without the supposed clicks."""
    num_failed_sources: int


@dataclass(frozen=True)
class Reason:
    """Why an item is where it is."""

    item: Item
    verdict: str
    """shown, forbidden, outranked, not_scored or not_proposed."""
    text: str
    filters: list[Filter]
    proposals: list[Proposal]
    nearest: list[Proposal]
    """Of an item that nobody proposed: its rank at sources asked for more."""
    ranks: Ranks
    num_candidates: int
    score: float | None
    """The ranker's; of an item that is no candidate but may be what it would be."""
    gap: float | None
    """What the score lacks to that of the slate's last item; None of an item that is shown or may not be."""
    parts: ScoreParts | None
    """None where no ranker scored, or no score is given."""


class Explorer:
    """Args:
        run: folder of a finished run.
        config: of the run, with its serving as it is to be.
        images: folder with pictures of the items; None for none.

    Raises: ArtifactError; RuleError; StockError.
    """

    def __init__(self, run: Path, config: CascadeConfig, images: Path | None = None) -> None:
        self.run, self._config = run, config
        etl, ranking = open_artifact(run / "etl", "etl"), open_artifact(run / "ranking", "ranking")
        self._retrieval: Artifact = open_artifact(run / "retrieval", "retrieval")
        version = open_artifact(run / "export", "export").path / "repository" / "cascade" / "1"
        serving: ServingConfig = replace(config.serving, deadlines=_PATIENT)
        self.pipeline = Pipeline.load(version, serving)
        self._what_if = WhatIf(self.pipeline, version)
        self._attributes = pq.read_table(version / "ensemble" / ATTRIBUTES)
        self.tables = RunTables(etl)
        self.images = Images(images)
        self._attribution = Attribution(config.ranking, etl, ranking, self.pipeline.source_names)

    def about(self) -> dict[str, Any]:
        """What the page says of the run before a user is chosen."""
        ordering = self._config.serving.ordering
        return {
            "run": str(self.run),
            "as_of": self.pipeline.as_of,
            "holds_test_back": self._config.etl.serve_state == "before_test",
            "examples": self.tables.most_active(NUM_EXAMPLES),
            "num_users": self.tables.num_users,
            "num_items": self.tables.num_items,
            "sources": self.pipeline.source_names,
            "rules": list(self._config.serving.filters.rules.values()),
            "temperature": ordering.temperature,
            "diversity": ordering.diversity,
        }

    def user(self, user_id: str) -> User:
        """Raises: UnknownError."""
        return self.tables.user(user_id)

    def item(self, row: int) -> Item:
        item_id = self.tables.item_id(row)
        return Item(item_id, self.tables.title(row), self.tables.item(row), self.images.path(item_id) is not None)

    def similar(self, item_id: str, k: int) -> list[tuple[Item, float]]:
        """The items most like one, with cosines.

        Raises: ExploreError if k is out of range; UnknownError.
        """
        if not 1 <= k <= MAX_SIMILAR:
            raise ExploreError(f"k must be 1..{MAX_SIMILAR}, got {k}")
        self.tables.item_row(item_id)
        try:
            (found,) = similar_items(self._retrieval, [item_id], k)
        except SimilarError as error:
            raise ExploreError(str(error)) from error
        return [(self.item(self.tables.item_row(one)), cosine) for one, cosine in found.items]

    def slate(self, question: Question) -> Slate:
        """Raises: RequestError, RuleError, or UnknownError for a click on an item that the run does not have."""
        with _ONE_AT_A_TIME:
            answered = self._answered(question)
            columns = answered.columns
            shown = set(answered.slate_k.tolist())
            behind = [row for row in answered.ranked_K.tolist() if row not in shown][:NUM_NEXT]
            propensities = columns["propensities"][0].tolist()
            return Slate(
                source=str(columns["source_name"][0]),
                items=[
                    self._placed(answered, row, propensity)
                    for row, propensity in zip(answered.slate_k.tolist(), propensities, strict=False)
                ],
                next=[self._placed(answered, row, None) for row in behind],
                num_candidates=len(answered.row_K),
                num_removed={
                    name.removeprefix("removed_"): int(values[0])
                    for name, values in columns.items()
                    if name.startswith("removed_")
                },
                query_cosine=answered.steps.query_cosine,
                num_failed_sources=int(columns["num_failed_sources"][0]),
            )

    def reason(self, question: Question) -> Reason:
        """Why `question.item` is in the slate, or is not.

        Raises: as `slate`; UnknownError also if the run does not have the item.
        """
        if question.item is None:
            raise ExploreError("item: name the item that is asked about, got none")
        row = self.tables.item_row(question.item)
        with _ONE_AT_A_TIME:
            return self._reason(question, self._answered(question), row)

    def _answered(self, question: Question) -> Answered:
        for item_id in question.clicks:
            self.tables.item_row(item_id)
        rules_I: np.ndarray | bool = True
        if question.rules is not None:
            masks = [mask_of(rule, self._attributes) for rule in self._rules(question).values()]
            rules_I = np.logical_and.reduce(masks) if masks else False
        steps: Steps = self._what_if.steps(question.request, question.clicks, rules_I)
        slate_k = np.array([self.tables.item_row(one) for one in steps.columns["item_ids"][0] if one], np.int64)
        return Answered(steps, slate_k, self.pipeline.source_names)

    def _rules(self, question: Question) -> dict[str, str]:
        """Name to rule, of those that hold for the question."""
        if question.rules is None:
            return self._config.serving.filters.rules
        return {rule: rule for rule in question.rules if rule.strip()}

    def _placed(self, answered: Answered, row: int, propensity: float | None) -> Placed:
        score = answered.score(row)
        return Placed(self.item(row), score, propensity, answered.ranks(row), answered.proposals(row))

    def _reason(self, question: Question, answered: Answered, row: int) -> Reason:
        what_if, steps = self._what_if, answered.steps
        filters = self._filters(question, answered, row)
        ranks, proposals = answered.ranks(row), answered.proposals(row)
        score, rows = answered.score(row), answered.row_K
        is_ranked = answered.columns["source"][0] in (PERSONAL, COLD)
        if score is None and is_ranked and not filters:
            rows = np.append(rows, row)
            score = float(what_if.with_candidates(steps, rows)["score"][0, -1])
        last = answered.score(int(answered.slate_k[-1])) if len(answered.slate_k) else None
        gap = None if ranks.ordered or filters or last is None or score is None else last - score
        nearest = self._nearest(steps, row) if is_ranked and not (ranks.ranked or filters or proposals) else []
        verdict, text = self._verdict(answered, row, filters, gap, nearest)
        return Reason(
            item=self.item(row),
            verdict=verdict,
            text=text,
            filters=filters,
            proposals=proposals,
            nearest=nearest,
            ranks=ranks,
            num_candidates=len(answered.row_K),
            score=score,
            gap=gap if gap is None or math.isfinite(gap) else None,
            parts=self._parts(question, steps, rows, row) if is_ranked and row in rows else None,
        )

    def _verdict(
        self, answered: Answered, row: int, filters: list[Filter], gap: float | None, nearest: list[Proposal]
    ) -> tuple[str, str]:
        """Why the item is where it is, as one word and as a sentence."""
        steps, ranks, proposals = answered.steps, answered.ranks(row), answered.proposals(row)
        if ranks.ordered:
            return SHOWN, _shown(ranks, proposals)
        if filters:
            return FORBIDDEN, "Filtered: " + "; ".join(one.text for one in filters)
        if ranks.ranked:
            return OUTRANKED, _outranked(ranks, len(answered.row_K), len(answered.slate_k), gap)
        if proposals:
            place = int(np.flatnonzero(self._what_if.all_merged(steps) == row)[0]) + 1
            num_scored = len(answered.row_K)
            return NOT_SCORED, f"Proposed, but rank {place} after the merge: only {num_scored} are scored"
        return NOT_PROPOSED, _not_proposed(nearest, steps.columns["source"][0] in (PERSONAL, COLD))

    def _filters(self, question: Question, answered: Answered, row: int) -> list[Filter]:
        """All that forbids an item to this user; nothing if it is allowed."""
        columns, found = answered.columns, []
        if self._what_if.drops_seen and row in columns["seen_row"][0]:
            found.append(Filter("seen", "the user had it already"))
        if self.tables.item_id(row) in question.exclude:
            found.append(Filter("exclude", "the request excludes it"))
        if columns["is_restricted"][0] and row not in columns["allowed_row"][0]:
            found.append(Filter("allow", "the request allows other items only"))
        for name, rule in self._rules(question).items():
            if not mask_of(rule, self._attributes.slice(row, 1))[0]:
                found.append(Filter("rule", f"rule {rule}" if name == rule else f"rule {name}: {rule}"))
        in_stock_I = self._what_if.filters(columns).in_stock_I
        if in_stock_I is not None and not in_stock_I[row]:
            found.append(Filter("stock", "it is out of stock"))
        return found

    def _nearest(self, steps: Steps, row: int) -> list[Proposal]:
        """Ranks of the item at sources that are asked for more, the best first."""
        found = []
        for name, row_Q in self._what_if.deepened(steps, min(MAX_DEPTH, self.tables.num_items)).items():
            place = np.flatnonzero(row_Q == row)
            if len(place):
                found.append(Proposal(name, int(place[0]) + 1))
        return sorted(found, key=lambda one: one.rank)

    def _parts(self, question: Question, steps: Steps, rows: np.ndarray, row: int) -> ScoreParts:
        columns = self._what_if.with_candidates(steps, rows)
        inputs = self._what_if.score.inputs_of(columns)
        raw = {f"item_{name}": value for name, value in self.tables.item(row).items()}
        raw |= {f"user_{name}": value for name, value in self.tables.user_attributes(question.user).items()}
        return self._attribution.parts(inputs, int(np.flatnonzero(rows == row)[0]), raw)


def _shown(ranks: Ranks, proposals: list[Proposal]) -> str:
    if not proposals:
        return f"In the slate at rank {ranks.ordered}; no source proposed it: it was filled in"
    first = proposals[0]
    return f"In the slate at rank {ranks.ordered}: proposed by {first.source} at rank {first.rank}" + (
        f" and by {len(proposals) - 1} more" if len(proposals) > 1 else ""
    )


def _outranked(ranks: Ranks, num_candidates: int, num_shown: int, gap: float | None) -> str:
    text = f"Outranked: rank {ranks.ranked} of {num_candidates} by score, the slate has {num_shown}"
    if gap is None:
        return text
    if gap < 0:
        return f"{text}; its score would do: diversity, sampling, caps or boosts put others in its place"
    return f"{text}; it misses the slate by {gap:.4g}"


def _not_proposed(nearest: list[Proposal], is_ranked: bool) -> str:
    if not is_ranked:
        return "Never retrieved: nothing is known of the user, so popular items are shown"
    if not nearest:
        return "Never retrieved: no source has it, however many it is asked for"
    first = nearest[0]
    return f"Never retrieved: nearest to it came {first.source}, where it has rank {first.rank}"
