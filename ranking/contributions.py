"""What each feature of a pair moved its score by: integrated gradients.

contribution_i = (x_i - r_i) * integral over a in [0, 1] of dF(r + a (x - r)) / dx_i,   r is a reference

Over numbers, and over the vectors that stand for categories: a category's contribution is the sum over its vector. They
are complete: they add up to F(x) - F(r). A feature that is the same in the reference contributes nothing.

Source: Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017, equation 1 and proposition 1.
"""

from __future__ import annotations

import numpy as np
import torch

from features.batches import Batch
from features.errors import CascadeError
from ranking.pair_features import RETRIEVAL_SCORE, is_per_candidate
from ranking.ranker import Ranker

# B users  K candidates  N = B K pairs  D embedding
FIRST_STEPS = 16
_ROWS_AT_ONCE = 8_192
Values = dict[str, torch.Tensor]
"""By feature: numbers [N], vectors [N, D]."""


class ContributionError(CascadeError, ArithmeticError):
    """The contributions do not add up as exactly as was asked for."""


def contributions(
    model: Ranker, batch: Batch, reference: Batch | None = None, tolerance: float = 1e-2, max_steps: int = 1_024
) -> dict[str, torch.Tensor]:
    """[B, K] of each feature: by how much it moved the score of each candidate away from the reference's.

    Args:
        model: in eval mode.
        batch: as `Ranker.score_candidates` takes it.
        reference: of the same form. None: for each user the mean of the user's candidates, of numbers and of vectors;
            the contributions then say why a candidate is scored otherwise than the list's middle.
        tolerance: how far their sum may be from the difference of both scores, relative to the largest one of the
            batch, or to 1.
        max_steps: points on the way at which the gradient is taken, at most; as few as the tolerance needs are. Where
            ReLUs bend the way often, twice as many points halve the error.
    Returns: the numbers and the categories that the model reads, each on its own.
    Raises: ContributionError.
    """
    num_users, num_candidates = batch[RETRIEVAL_SCORE].shape
    with torch.no_grad():
        end = _values(model, batch)
        start = _list_means(end, num_users) if reference is None else _values(model, reference)
        moved_N = _score(model, end) - _score(model, start)
    allowed = tolerance * max(1.0, float(moved_N.abs().max()) if len(moved_N) else 1.0)
    num_steps, off = FIRST_STEPS, float("inf")
    while num_steps <= max_steps:
        found = _integrated(model, start, end, num_steps)
        off = float((sum(found.values()) - moved_N).abs().max()) if len(moved_N) else 0.0
        if off <= allowed:
            return {name: values.reshape(num_users, num_candidates) for name, values in found.items()}
        num_steps *= 2
    raise ContributionError(
        f"contributions add up to the difference of scores within {off:.3g} only, needed {allowed:.3g}, after "
        f"{num_steps // 2} steps; give a larger max_steps, or a larger tolerance"
    )


def _values(model: Ranker, batch: Batch) -> Values:
    """What the network reads of each pair."""
    num_candidates = batch[RETRIEVAL_SCORE].shape[1]

    def of_pairs(name: str) -> torch.Tensor:
        if is_per_candidate(name):
            return batch[name].flatten(0, 1)
        return batch[name].repeat_interleave(num_candidates, dim=0)

    flat = {name: of_pairs(name) for name in model.inputs}
    return {name: flat[name] for name in model.continuous} | model.embedded(flat)


def _list_means(values: Values, num_users: int) -> Values:
    found = {}
    for name, value in values.items():
        of_list = value.reshape(num_users, -1, *value.shape[1:])
        found[name] = of_list.mean(1, keepdim=True).expand_as(of_list).flatten(0, 1)
    return found


def _score(model: Ranker, values: Values) -> torch.Tensor:
    """[N]."""
    numbers = {name: values[name] for name in model.continuous}
    return model._score({name: value for name, value in values.items() if name not in numbers}, numbers)


def _integrated(model: Ranker, start: Values, end: Values, num_steps: int) -> Values:
    """[N] of each feature, by Gauss-Legendre quadrature."""
    place_S, weight_S = np.polynomial.legendre.leggauss(num_steps)
    place_S, weight_S = torch.tensor((place_S + 1) / 2).float(), torch.tensor(weight_S / 2).float()
    mean = {name: torch.zeros_like(value) for name, value in end.items()}
    num_pairs = len(next(iter(end.values())))
    at_once = max(1, _ROWS_AT_ONCE // max(1, num_pairs))
    for place_P, weight_P in zip(place_S.split(at_once), weight_S.split(at_once), strict=True):
        between = {name: _along(start[name], end[name], place_P).flatten(0, 1).requires_grad_() for name in end}
        with torch.enable_grad():
            total = _score(model, between).sum()
            gradients = torch.autograd.grad(total, list(between.values()), allow_unused=True)
        for name, gradient in zip(between, gradients, strict=True):
            if gradient is not None:
                mean[name] += torch.tensordot(weight_P, gradient.reshape(len(place_P), *end[name].shape), 1)
    moved = {name: (end[name] - start[name]) * mean[name] for name in end}
    return {name: value if value.ndim == 1 else value.sum(1) for name, value in moved.items()}


def _along(start: torch.Tensor, end: torch.Tensor, place_P: torch.Tensor) -> torch.Tensor:
    """[P, N, ...] at some places of the way."""
    return start + place_P.reshape(-1, *[1] * end.ndim) * (end - start)
