"""Which features moved an item's score, of those that the ranker reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ensemble.operators.operator import Columns
from features.artifact import Artifact
from features.batches import FeatureTables
from ranking.config import RankingConfig
from ranking.contributions import contributions
from ranking.pair_features import RETRIEVAL_SCORE, is_per_candidate
from ranking.train import untrained

NUM_SHOWN = 8


@dataclass(frozen=True)
class Part:
    """By how much a feature moved the score."""

    feature: str
    value: Any
    """As the logs have it where they do, else as the ranker reads it; None for a list or an unknown value."""
    moved: float


@dataclass(frozen=True)
class ScoreParts:
    """base + what the parts moved + rest = score."""

    base: float
    """The score of the candidates' middle, where every feature has its mean."""
    parts: list[Part]
    """The NUM_SHOWN largest, by size."""
    rest: float
    """What all other features moved together."""
    score: float


class Attribution:
    """The trained ranker, whose gradients say what moved a score.

    Args:
        ranking: the run's finished stage.
        sources: names of the candidate sources.
    """

    def __init__(self, config: RankingConfig, etl: Artifact, ranking: Artifact, sources: list[str]) -> None:
        self._model = untrained(config, FeatureTables(etl), sources)
        self._model.load_state_dict(load_file(ranking.file("model.safetensors")))
        self._model.requires_grad_(False)

    def parts(self, inputs: Columns, place: int, raw: Mapping[str, Any]) -> ScoreParts:
        """Of one candidate, against the mean of all.

        Args:
            inputs: what the ranker reads of one user and the user's candidates.
            place: of the candidate.
            raw: values of features by name, as the logs have them.
        """
        names = dict.fromkeys([RETRIEVAL_SCORE, *self._model.inputs])
        batch = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names}
        with torch.no_grad():
            score = float(self._model.score_candidates(batch)[0, place])
        moved = {name: float(values[0, place]) for name, values in contributions(self._model, batch).items()}
        largest = sorted(moved, key=lambda name: -abs(moved[name]))[:NUM_SHOWN]
        total = sum(moved.values())
        return ScoreParts(
            base=score - total,
            parts=[Part(name, raw.get(name, _number(inputs[name], name, place)), moved[name]) for name in largest],
            rest=total - sum(moved[name] for name in largest),
            score=score,
        )


def _number(values: np.ndarray, name: str, place: int) -> float | None:
    """A number as the ranker reads it; None for what is no single one, and for codes."""
    value = values[0, place] if is_per_candidate(name) else values[0]
    return float(value) if value.ndim == 0 and values.dtype.kind == "f" else None
