"""How the columns of made Criteo logs are distributed: after the sizes, tails and gaps of the Kaggle data set."""

from __future__ import annotations

from typing import NamedTuple


class IntegerColumn(NamedTuple):
    """A count: floor(exp(mean + deviation * z)) with z normal, so that what falls below 1 is 0."""

    mean: float
    deviation: float
    weight: float
    """What z adds to the log-odds of a click."""
    missing: float
    """Share of rows in which the column is empty."""
    gap: int
    """Columns with the same gap are empty in the same rows, those with the smaller share in fewer of them."""
    negative: float = 0.0
    """Share of rows with -1, -2 or -3."""


class CategoryColumn(NamedTuple):
    """Categories by rank r = 0, 1, ...: their density is (r + shift) ** -exponent (Zipf and Mandelbrot)."""

    num_values: int
    exponent: float
    shift: float
    weight: float
    """Standard deviation, over the categories, of what a category adds to the log-odds of a click."""
    missing: float = 0.0
    gap: int = -1
    same_draw: int = -1
    """Columns of the same number draw with the same chance: they tell the same ad, more or less finely."""


INTEGERS = (
    IntegerColumn(0.1, 1.60, 0.35, 0.45, 0),
    IntegerColumn(1.2, 2.70, 0.15, 0.0, 1, negative=0.10),
    IntegerColumn(2.0, 1.50, 0.15, 0.21, 2),
    IntegerColumn(1.5, 1.15, -0.10, 0.21, 2),
    IntegerColumn(7.9, 1.95, -0.30, 0.03, 3),
    IntegerColumn(3.7, 1.65, -0.25, 0.22, 4),
    IntegerColumn(1.2, 1.70, 0.35, 0.04, 3),
    IntegerColumn(1.9, 1.20, 0.10, 0.0005, 5),
    IntegerColumn(3.7, 1.55, -0.10, 0.04, 3),
    IntegerColumn(-0.03, 0.45, 0.20, 0.45, 0),
    IntegerColumn(0.5, 1.10, 0.35, 0.04, 3),
    IntegerColumn(-0.7, 1.05, 0.10, 0.76, 6),
    IntegerColumn(1.7, 1.25, -0.15, 0.21, 2),
)
"""I1 to I13."""

CATEGORIES = (
    CategoryColumn(1460, 1.95, 0.89, 0.15),
    CategoryColumn(583, 1.85, 6.38, 0.30),
    CategoryColumn(10_131_227, 1.05, 1.27, 0.35, 0.034, 7, same_draw=0),
    CategoryColumn(2_202_608, 1.05, 0.74, 0.20, 0.034, 7, same_draw=1),
    CategoryColumn(305, 2.55, 0.89, 0.10),
    CategoryColumn(24, 2.75, 2.80, 0.20, 0.12, 8),
    CategoryColumn(12_517, 1.15, 22.44, 0.25),
    CategoryColumn(633, 2.35, 1.06, 0.10),
    CategoryColumn(3, 1.55, 0.07, 0.15),
    CategoryColumn(93_145, 1.05, 0.05, 0.20),
    CategoryColumn(5683, 1.25, 15.67, 0.25, same_draw=2),
    CategoryColumn(8_351_593, 1.05, 1.52, 0.15, 0.034, 7, same_draw=0),
    CategoryColumn(3194, 1.25, 15.67, 0.20, same_draw=2),
    CategoryColumn(27, 2.55, 3.11, 0.30),
    CategoryColumn(14_992, 1.45, 22.44, 0.20),
    CategoryColumn(5_461_306, 1.05, 1.27, 0.15, 0.034, 7, same_draw=0),
    CategoryColumn(10, 2.05, 1.82, 0.35),
    CategoryColumn(5652, 1.55, 10.94, 0.30),
    CategoryColumn(2173, 1.25, 0.08, 0.15, 0.44, 9),
    CategoryColumn(4, 1.55, 4.46, 0.10, 0.44, 9),
    CategoryColumn(7_046_547, 1.05, 1.27, 0.10, 0.034, 7, same_draw=0),
    CategoryColumn(18, 3.00, 2.00, 0.15, 0.76, 10),
    CategoryColumn(15, 3.05, 3.11, 0.25),
    CategoryColumn(286_181, 1.25, 2.60, 0.20, 0.034, 7, same_draw=1),
    CategoryColumn(105, 3.00, 5.50, 0.15, 0.44, 9),
    CategoryColumn(142_572, 1.15, 1.52, 0.20, 0.44, 9),
)
"""C1 to C26; the numbers of values are those of the whole Kaggle data set."""

CROSSED = (1, 6, 10, 13, 17, 22)
"""Categories (counted from 0) of which each two together add to the log-odds of a click what neither tells alone."""
