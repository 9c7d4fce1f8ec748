"""Earlier weights in a model whose vocabulary has grown.

Vocabularies are append-only: an id means what it meant, and new ids come behind. So a table's earlier rows are taken
over, with how far they have been trained; the rows behind them stay as the new model has them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from features.errors import CascadeError

# R rows of a table  D embedding


class WarmStartError(CascadeError, ValueError):
    """The earlier weights do not fit the model."""


def grown(earlier: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    """The earlier tensors, each with as many rows as the fresh one of its name; the rows behind are the fresh ones.

    Args:
        earlier: a model's weights, or what an optimizer gathered; tables [R, D] or [R].
        fresh: those of the new model, which has at least as many rows.
        key: of the configuration, that turns it off.
    Raises: WarmStartError if a name is missing or too much, or a shape differs in more than the rows, or has fewer.
    """
    if earlier.keys() != fresh.keys():
        raise WarmStartError(
            f"the earlier model and the new one have other weights: {sorted(earlier.keys() ^ fresh.keys())} are in "
            f"one of them only; keep the network as it was, or set {key} = false"
        )
    return {name: _grown(name, earlier[name], fresh[name], key) for name in fresh}


def _grown(name: str, earlier: torch.Tensor, fresh: torch.Tensor, key: str) -> torch.Tensor:
    if earlier.shape == fresh.shape:
        return earlier
    if earlier.shape[1:] != fresh.shape[1:] or earlier.dim() == 0 or len(earlier) > len(fresh):
        raise WarmStartError(
            f"{name} was {list(earlier.shape)} in the earlier model, and the new one needs {list(fresh.shape)}: only "
            f"the rows of a table may grow; keep the network as it was, or set {key} = false"
        )
    return torch.cat([earlier, fresh[len(earlier) :].to(earlier.dtype)])
