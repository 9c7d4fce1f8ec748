"""What became of each feature: how far its known values are from the reference's, how many are missing or unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.as_of import HISTORY_GAP
from features.history_gaps import NO_GAP
from features.schema import FIRST_KNOWN, NULL, PADDING, UNSEEN
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.offline_features import LAST_TIMESTAMP, OfflineFeatures
from pipelines.monitor.shift import Sample, Shift, category_shift, number_shift

# B requests  L elements of a list
IDS = ("user_id", LAST_TIMESTAMP)
"""Features that are different for every user, or grow with the clock."""
LENGTH, NEWEST, MEAN = ".length", ".newest", ".mean"
"""A list becomes two: how many elements it has, and its first one; the gaps of the history become their mean."""


@dataclass(frozen=True)
class FeatureDrift:
    """One feature, over the requests of users of whom something was read."""

    name: str
    """With LENGTH, NEWEST or MEAN behind that of a list."""
    shift: Shift | None
    """Of the known values; None if there are none."""
    missing: tuple[float, float]
    """Share of requests in which it is null, in the reference and in the window."""
    unseen: tuple[float, float]
    """Share of requests with a value that the vocabulary does not have."""
    sizes: tuple[int, int]
    """Users in the reference and in the window."""

    @property
    def feature(self) -> str:
        """The feature that the models read."""
        return self.name.partition(".")[0]


def feature_drift(reference: LoggedRequests, window: LoggedRequests, offline: OfflineFeatures) -> list[FeatureDrift]:
    """Of every feature that is no id."""
    before, now = (requests.taken(np.flatnonzero(requests.is_known_B)) for requests in (reference, window))
    if not len(before) or not len(now):
        return []
    users = np.array(before.user_id, object), np.array(now.user_id, object)
    empty_as, categories = offline.without_attributes, set(offline.categories)
    found = []
    for name in offline.names:
        if name in IDS or name not in now.features:
            continue
        sides = [_parts(name, one.features[name], name in categories) for one in (before, now)]
        for (part, old, is_category), (_, new, _) in zip(*sides, strict=True):
            samples = Sample(old, users[0]), Sample(new, users[1])
            found.append(_drift(part, *samples, is_category, empty_as.get(name)))
    return found


def without_any_attribute(requests: LoggedRequests, offline: OfflineFeatures) -> np.ndarray:
    """[B] whether all of a user's attributes are null or unknown, though the user is known."""
    empty_as, categories = offline.without_attributes, set(offline.categories)
    missing = [
        np.isin(column, (NULL, UNSEEN)) if name in categories else np.isclose(column, empty_as.get(name, np.nan))
        for name in offline.attributes
        if (column := requests.features.get(name)) is not None and column.ndim == 1
    ]
    return requests.is_known_B & np.all(missing, axis=0) if missing else np.zeros(len(requests), bool)


def _parts(name: str, values: np.ndarray, is_category: bool) -> list[tuple[str, np.ndarray, bool]]:
    """Name, [B] values, and whether they are codes, of what is compared of a feature; nan where there is none."""
    if values.ndim == 1:
        return [(name, values, is_category)]
    if name == HISTORY_GAP:
        return [(f"{name}{MEAN}", _mean(values, NO_GAP), False)]
    newest = np.where(values[:, 0] == PADDING, np.nan, values[:, 0])
    return [
        (f"{name}{LENGTH}", (values != PADDING).sum(1).astype(np.float64), False),
        (f"{name}{NEWEST}", newest, is_category),
    ]


def _drift(name: str, old: Sample, new: Sample, is_category: bool, empty_as: float | None) -> FeatureDrift:
    old, new = (sample.where(~np.isnan(sample.values)) for sample in (old, new))
    if is_category:
        missing = [_share(sample.values == NULL) for sample in (old, new)]
        unseen = [_share(sample.values == UNSEEN) for sample in (old, new)]
        shift = category_shift(*(sample.where(sample.values >= FIRST_KNOWN) for sample in (old, new)))
    else:
        nothing = np.nan if empty_as is None else empty_as
        missing, unseen = [_share(np.isclose(sample.values, nothing)) for sample in (old, new)], [0.0, 0.0]
        shift = number_shift(*(sample.where(~np.isclose(sample.values, nothing)) for sample in (old, new)))
    sizes = old.num_independent, new.num_independent
    return FeatureDrift(name, shift, (missing[0], missing[1]), (unseen[0], unseen[1]), sizes)


def _mean(values_BL: np.ndarray, padding: int) -> np.ndarray:
    """[B] of the elements that are there; nan of none."""
    count = (values_BL != padding).sum(1)
    return np.where(count, np.where(values_BL != padding, values_BL, 0).sum(1) / np.maximum(count, 1), np.nan)


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
