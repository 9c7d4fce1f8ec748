"""Quantiles and histogram of counted numbers: exact, and the same whatever the order of the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

MAX_BINS = 40
PERCENTS = (1, 5, 25, 50, 75, 95, 99)
_HEAVY_TAIL = 6.0  # (max - min) / (95 % - 5 %): about 3 for a normal column of any size, 5 for an exponential one


def distribution(counts: pl.DataFrame, lowest: float | None = None, highest: float | None = None) -> dict[str, Any]:
    """Mean, quantiles and histogram of counted numbers.

    Args:
        counts: key ascending, rows.
        lowest, highest: the extremes, where the keys are rounded.
    """
    if counts.is_empty():
        nothing = dict.fromkeys(f"p{percent}" for percent in PERCENTS)
        empty = {"spacing": "linear", "edges": [], "counts": []}
        return {"min": None, "max": None, "mean": None, "std": None, "quantiles": nothing, "histogram": empty}
    key, rows = counts["key"].cast(pl.Float64).to_numpy(), counts["rows"].to_numpy()
    reached = np.cumsum(rows)
    n = int(reached[-1])
    at = {percent: float(key[np.searchsorted(reached, -(-percent * n // 100))]) for percent in PERCENTS}
    low, high = float(key[0] if lowest is None else lowest), float(key[-1] if highest is None else highest)
    mean = float((key / n * rows).sum())
    return {
        "min": rounded(low),
        "max": rounded(high),
        "mean": rounded(mean),
        "std": rounded(float(np.sqrt(((key - mean) ** 2 / n * rows).sum()))) if abs(high - low) < 1e150 else None,
        "quantiles": {f"p{percent}": rounded(value) for percent, value in at.items()},
        "histogram": _histogram(key, rows, low, high, at),
    }


def _histogram(key: np.ndarray, rows: np.ndarray, low: float, high: float, at: Mapping[int, float]) -> dict[str, Any]:
    whole = bool((key == np.floor(key)).all()) and abs(low) < 2**50 and abs(high) < 2**50
    spacing, edges = "linear", np.linspace(low / 2, high / 2, MAX_BINS + 1) * 2  # halves: high - low may overflow
    if math.isfinite(high - low) and high - low > max(_HEAVY_TAIL * (at[95] - at[5]), MAX_BINS if whole else 0):
        spacing, edges = "asinh", _tailed_edges(low, high, at)
    elif whole:
        width = math.ceil((high - low + 1) / MAX_BINS)  # as many whole numbers in every bin
        edges = np.arange(low, high + width + 1, width)[: math.ceil((high - low + 1) / width) + 1]
    elif low == high:
        edges = np.array([low - (abs(low) / 2 or 0.5), low + (abs(low) / 2 or 0.5)])
    if whole:
        edges = np.append(np.floor(edges[:-1]), max(high + 1, math.floor(edges[-1]))) - 0.5
    edges = np.unique([float(f"{edge:.15g}") for edge in edges])
    return {"spacing": spacing, "edges": edges.tolist(), "counts": histogram_counts(edges, key, rows)}


def _tailed_edges(low: float, high: float, at: Mapping[int, float]) -> np.ndarray:
    """Bins of equal width on asinh(x / scale): even around 0, and like a logarithm far from it."""
    near = min(abs(at[5]), abs(at[95])) if low >= 0 or high <= 0 else 0.0
    scale = near or (at[75] - at[25]) / 2 or (at[95] - at[5]) / 2 or (high - low) / 1e4
    scale = max(scale, (high - low) / 1e12)
    return np.sinh(np.linspace(np.arcsinh(low / scale), np.arcsinh(high / scale), MAX_BINS + 1)) * scale


def histogram_counts(edges: Sequence[float] | np.ndarray, values: np.ndarray, rows: np.ndarray) -> list[int]:
    """Rows in each of the B bins [edge, next edge); what lies outside counts into the outermost bins.

    Args:
        edges: [B + 1], ascending.
        values, rows: [N] values, and how many rows hold each.
    """
    bins = np.clip(np.searchsorted(np.asarray(edges), values, side="right") - 1, 0, len(edges) - 2)
    return np.bincount(bins, weights=rows, minlength=len(edges) - 1).astype(np.int64).tolist()


def share(part: int, whole: int) -> float:
    """part / whole, 0 of nothing."""
    return float(f"{part / whole:.6g}") if whole else 0.0


def rounded(value: float | None) -> float | None:
    """To 6 significant digits, whole numbers as they are; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if value == math.floor(value) and abs(value) < 2**53 else float(f"{value:.6g}")
