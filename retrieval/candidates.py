"""The candidate stage: every source asked, and one list made of what they propose."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from retrieval.index.item_index import ItemIndex
from retrieval.merge import Merge, Merged, side_by_side
from retrieval.sources import FITTED, CandidateSource, FittedSource, NewItems, Proposals, TwoTowerSource, Users

# B users  S sources  Q proposals of a source  K candidates  I items
MERGE_FILE = "merge.json"
_SEARCHING = (TwoTowerSource.name, NewItems.name)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CandidateStage:
    """Args:
    quotas: most items that each source proposes, in the order of the sources.
    """

    sources: tuple[CandidateSource, ...]
    quotas: tuple[int, ...]
    merge: Merge

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def num_asked(self, place: int, depth: int) -> int:
        """Items that a source is asked for: its quota, or depth if that is more; none without a quota."""
        quota = self.quotas[place]
        return max(quota, depth) if quota else 0

    def propose(self, users: Users, depth: int) -> tuple[list[Proposals], list[str]]:
        """What each source proposes, at most its quota or depth if that is more; and the sources that failed.

        A source that fails proposes nothing, and the others go on.
        """
        proposals, failed = [], []
        for place, source in enumerate(self.sources):
            k = self.num_asked(place, depth)
            try:
                proposals.append(source.propose(users, k))
            except Exception:
                _log.exception("the candidate source %s failed; %d users do without it", source.name, len(users))
                proposals.append(Proposals.nothing(len(users), k))
                failed.append(source.name)
        return proposals, failed

    def candidates(self, users: Users, num: int) -> Merged:
        """The merged candidates of each user."""
        return self.merge(side_by_side(self.propose(users, depth=0)[0]), num)


def searching(index: ItemIndex, num_events_I: np.ndarray) -> dict[str, CandidateSource]:
    """The sources that search the index, by name.

    Args:
        num_events_I: interactions of each item so far.
    """
    return {TwoTowerSource.name: TwoTowerSource(index), NewItems.name: NewItems.of(index, num_events_I == 0)}


def save_stage(folder: Path, stage: CandidateStage, fitted: Sequence[FittedSource]) -> None:
    """Write `merge.json`, and a file of arrays for each fitted source.

    Args:
        fitted: the sources to serve with, in place of the stage's own of the same names.
    """
    save_fitted(folder, fitted)
    merge = stage.merge
    document = {
        "sources": [
            {"name": name, "quota": quota, "weight": weight}
            for name, quota, weight in zip(stage.names, stage.quotas, merge.weights, strict=True)
        ],
        "reserved": None if merge.reserved is None else stage.names[merge.reserved],
        "share": merge.share,
    }
    (folder / MERGE_FILE).write_text(json.dumps(document, indent=2) + "\n")


def save_fitted(folder: Path, fitted: Sequence[FittedSource]) -> None:
    """Write the fitted sources alone, beside a `merge.json` that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in fitted:
        arrays = {name: np.ascontiguousarray(values) for name, values in source.arrays.items()}
        save_file(arrays, _file(folder, source.name))


def load_stage(folder: Path, index: ItemIndex, num_events_I: np.ndarray) -> CandidateStage:
    """The stage that `save_stage` wrote."""
    document = _document(folder)
    kinds = {kind.name: kind for kind in FITTED}
    there: Mapping[str, CandidateSource] = searching(index, num_events_I)
    sources = []
    for name in source_names(folder):
        if name in _SEARCHING:
            sources.append(there[name])
        else:
            sources.append(kinds[name].from_arrays(load_file(_file(folder, name))))
    quotas = tuple(source["quota"] for source in document["sources"])
    return CandidateStage(tuple(sources), quotas, load_merge(folder))


def load_merge(folder: Path) -> Merge:
    """The merge alone."""
    document, names = _document(folder), source_names(folder)
    reserved = document["reserved"]
    weights = tuple(source["weight"] for source in document["sources"])
    return Merge(weights, None if reserved is None else names.index(reserved), document["share"])


def source_names(folder: Path) -> list[str]:
    """The sources of a saved stage, in the order in which candidates carry what they said."""
    return [source["name"] for source in _document(folder)["sources"]]


def _document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MERGE_FILE).read_text())


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
