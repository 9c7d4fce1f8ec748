"""What one column of a table holds: nulls, distinct values, the most frequent ones, quantiles, a histogram.

Counted by Polars' streaming engine in a few passes over the column. Memory grows with the distinct values, up to
`DISTINCT_LIMIT` of them, and not with the rows. The numbers are the same on every run, whatever the number of threads
and the way the rows are cut into files: counts and integer sums do not depend on an order, sums of floats would.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from features.distribution import distribution, histogram_counts, rounded, share

Role = Literal["id", "time"]
Column = dict[str, Any]

DISTINCT_LIMIT = 5_000_000
"""Up to about so many distinct values (as HyperLogLog estimates, 6 % off) are counted exactly; beyond, a sample of them
is, and the most frequent ones."""
TOP_VALUES, TEXT_LENGTH, MAX_POINTS = 20, 64, 200
ROUNDING = 1e-5
"""Relative error that numbers of a profile may have: they are rounded to 6 significant digits."""
SECONDS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}
_TIES = 1_000  # values tied for the last place among the top values that are still looked at
_BUCKETS, _BUCKETS_KEPT = 1 << 20, 64
_X = pl.col("x")
_SHORT = pl.when(_X.str.len_chars() > TEXT_LENGTH).then(_X.str.slice(0, TEXT_LENGTH - 1) + "…").otherwise(_X)


def column_profile(
    values: pl.LazyFrame,
    *,
    role: Role | None = None,
    fitted: Column | None = None,
    vocabulary: Sequence[str] | None = None,
    distinct_limit: int = DISTINCT_LIMIT,
) -> Column:
    """Profile one column.

    Args:
        values: a frame with this one column, of any name.
        role: "id" if it holds ids (then: rows per id), "time" if it holds Unix seconds or is a date.
        fitted: profile of this column in the data that features were fitted on; adds `on_fitted`, what of this column
            falls into the bins and top values of that one.
        vocabulary: the known values of a category, or of the elements of a list; adds `unseen`, rows with another one.
        distinct_limit: distinct values up to which counting is exact.
    Returns: a JSON-able document; `kind` is "category", "number", "list", "text" or "time", `type` Polars' type.
    """
    dtype = values.collect_schema().dtypes()[0]
    kind = _kind(dtype, role)
    column = {"kind": kind, "type": _type_name(dtype)}
    compared = fitted if fitted and fitted["kind"] == kind else None
    if kind == "list":
        return column | _lists(values.select(_as_list(dtype)), compared, vocabulary, distinct_limit)
    if kind == "time":
        return column | _times(values.select(_as_seconds(dtype)), compared, distinct_limit)
    if kind == "number":
        return column | _numbers(values.select(_as_number(dtype)), compared, distinct_limit)
    if fitted and fitted["kind"] in ("category", "text"):
        compared = fitted
    return column | _texts(values.select(_as_text(dtype)), role, compared, vocabulary, distinct_limit)


def _kind(dtype: pl.DataType, role: Role | None) -> str:
    if isinstance(dtype, pl.List | pl.Array):
        return "list"
    if role == "id":
        return "category"
    if isinstance(dtype, pl.Date | pl.Datetime) or (role == "time" and dtype.is_integer()):
        return "time"
    return "number" if dtype.is_numeric() else "category"


def _type_name(dtype: pl.DataType) -> str:
    """Polars' name; text is text, however it is stored."""
    if isinstance(dtype, pl.List | pl.Array):
        return f"List({_type_name(dtype.inner)})"  # pyright: ignore[reportArgumentType]
    return "String" if isinstance(dtype, pl.Categorical | pl.Enum) else str(dtype)


def _as_list(dtype: pl.DataType) -> pl.Expr:
    return (pl.first().arr.to_list() if isinstance(dtype, pl.Array) else pl.first()).alias("x")


def _as_seconds(dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Date):
        return pl.first().cast(pl.Datetime("ms")).dt.epoch("s").alias("x")
    return (pl.first().cast(pl.Int64) if dtype.is_integer() else pl.first().dt.epoch("s")).alias("x")


def _as_number(dtype: pl.DataType) -> pl.Expr:
    """Integers as they are; everything else as float64, with one zero (-0.0 is 0.0) and NaN as null."""
    if dtype.is_integer():
        return pl.first().alias("x")
    value = pl.first().cast(pl.Float64).fill_nan(None)
    return pl.when(value == 0).then(0.0).otherwise(value).alias("x")


def _as_text(dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Struct):
        return pl.first().struct.json_encode().alias("x")
    if isinstance(dtype, pl.Binary):
        return pl.first().bin.encode("hex").alias("x")
    return pl.first().cast(pl.String).alias("x")


def _one_row(values: pl.LazyFrame, **aggregates: pl.Expr) -> dict[str, Any]:
    return values.select(**aggregates).collect(engine="streaming").row(0, named=True)


def _counts(values: pl.LazyFrame, key: pl.Expr = _X) -> pl.DataFrame:
    """Columns key (not null) and rows, in order of key."""
    groups = values.filter(_X.is_not_null()).group_by(key=key).agg(rows=pl.len().cast(pl.Int64))
    return groups.collect(engine="streaming").sort("key")


def _nulls(found: Mapping[str, Any]) -> Column:
    return {"rows": found["rows"], "nulls": {"count": found["nulls"], "share": share(found["nulls"], found["rows"])}}


def _num_parts(estimate: int, limit: int) -> int:
    """Into how many parts the distinct values are split so that one part is no more than the limit."""
    return max(1, math.ceil(estimate / limit))


def _sampled(values: pl.LazyFrame, parts: int) -> pl.LazyFrame:
    """All rows of one in so many distinct values, chosen by hash."""
    return values.filter(_X.hash() % parts == 0) if parts > 1 else values


def _cardinality(values: pl.LazyFrame, estimate: int, limit: int) -> Column:
    """Distinct values: of all, or of the sampled ones times the parts (of 5 million sampled: 0.05 % off)."""
    parts = _num_parts(estimate, limit)
    known = _sampled(values.drop_nulls(), parts).select(x=_X.hash())
    return {"cardinality": parts * _one_row(known, n=_X.n_unique())["n"], "cardinality_exact": parts == 1}


# --- text: categories, ids and free text -----------------------------------------------------------------------------


def _texts(
    values: pl.LazyFrame, role: Role | None, fitted: Column | None, vocabulary: Sequence[str] | None, limit: int
) -> Column:
    """Values are counted by their hash (64 bits), which takes a fraction of the memory that the texts would."""
    found = _one_row(
        values,
        rows=pl.len(),
        nulls=_X.null_count(),
        distinct=_X.approx_n_unique(),
        spaced=pl.lit(0) if role == "id" else _X.str.contains(" ", literal=True).sum(),
    )
    parts = _num_parts(found["distinct"], limit)
    sample = _counts(_sampled(values, parts), _X.hash())
    counts = sample if parts == 1 else _frequent(values)
    num_known, distinct = found["rows"] - found["nulls"], parts * len(sample)
    column = _nulls(found) | {"cardinality": distinct, "cardinality_exact": parts == 1}
    column["top"] = _top_texts(values, counts, distinct)
    if role == "id":
        column["rows_per_id"] = _rows_per_id(sample, parts)
    elif _is_text(found["spaced"] or 0, num_known, distinct):
        column |= {"kind": "text", "length": distribution(_counts(values, _X.str.len_chars()))}
    if fitted:
        column["on_fitted"] = _on_top_values(values, fitted["top"], num_known)
    if vocabulary is not None:
        known = pl.Series(vocabulary, dtype=pl.String)
        unseen = _one_row(values.filter(_X.is_not_null() & ~_X.is_in(known.implode())), rows=pl.len())["rows"]
        column["unseen"] = {"count": unseen, "share": share(unseen, num_known)}
    return column


def _is_text(spaced: int, num_known: int, distinct: int) -> bool:
    """Free text: many different values, most of them of several words."""
    return distinct > 100 and distinct > 0.1 * num_known and spaced > 0.5 * num_known


def _frequent(values: pl.LazyFrame) -> pl.DataFrame:
    """The most frequent of too many values: hash and rows of every value that has more rows than can have been missed.

    Rows are counted by bucket of the hash first. Only values in the fullest buckets are counted one by one; a value in
    another bucket has at most as many rows as the fullest of those.
    """
    bucket = _X.hash() % _BUCKETS
    buckets = _counts(values, bucket).sort("rows", "key", descending=[True, False])
    kept, missed = buckets["key"][:_BUCKETS_KEPT], buckets["rows"][_BUCKETS_KEPT]
    return _counts(values.filter(bucket.is_in(kept.implode())), _X.hash()).filter(pl.col("rows") > missed)


def _top_texts(values: pl.LazyFrame, counts: pl.DataFrame, distinct: int) -> list[Column]:
    candidates = _top_candidates(counts, distinct)
    texts = values.filter(_X.hash().is_in(candidates["key"].implode())).unique().collect(engine="streaming")
    top = texts.with_columns(key=_X.hash()).join(candidates, on="key")
    top = top.sort("rows", "x", descending=[True, False]).head(TOP_VALUES)
    return top.select(value=_SHORT, count="rows").to_dicts()


def _top_candidates(counts: pl.DataFrame, distinct: int) -> pl.DataFrame:
    """Rows of `counts` for the top values, with those tied for the last place if they are few.

    A value that stands in one row only is no frequent value, unless there are so few that all can be shown.
    """
    if distinct <= TOP_VALUES:
        return counts
    many = counts.filter(pl.col("rows") > 1)
    if len(many) <= TOP_VALUES:
        return many
    last = many["rows"].top_k(TOP_VALUES).min()  # which are in no order
    candidates = many.filter(pl.col("rows") >= last)
    return candidates if len(candidates) <= _TIES else many.filter(pl.col("rows") > last)


def _on_top_values(values: pl.LazyFrame, top: Sequence[Column], num_known: int) -> Column:
    """Rows with each of the fitted column's top values, and with any other."""
    names = pl.Series([entry["value"] for entry in top], dtype=pl.String)
    found = dict(_counts(values.filter(_SHORT.is_in(names.implode())), _SHORT).iter_rows())
    return {"counts": {name: found.get(name, 0) for name in names}, "others": num_known - sum(found.values())}


def _rows_per_id(counts: pl.DataFrame, parts: int) -> Column:
    """How rows spread over ids; of too many ids, over a sample of them."""
    rows = np.sort(counts["rows"].to_numpy())
    n, total = len(rows), int(rows.sum())
    gini = (2 * int((np.arange(1, n + 1) * rows).sum()) - (n + 1) * total) / (n * total) if n else None
    of_top = int(rows[n - math.ceil(n / 100) :].sum())
    return {
        **distribution(_counts(counts.lazy().rename({"rows": "x"}))),
        "sampled_share": rounded(1 / parts),
        "gini": rounded(gini),
        "top_1_percent_share": share(of_top, total),
    }


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(values: pl.LazyFrame, fitted: Column | None, limit: int) -> Column:
    found = _one_row(values, rows=pl.len(), nulls=_X.null_count(), infinite=_X.is_infinite().sum())
    values = values.filter(_X.is_finite())
    found |= _one_row(values, known=pl.len(), distinct=_X.approx_n_unique(), lowest=_X.min(), highest=_X.max())
    exact = found["distinct"] <= limit
    counts = _counts(values, _X if exact else _X.cast(pl.Float64).round_sig_figs(6))
    column = _nulls(found) | {"infinite": found["infinite"] or 0, "cardinality": len(counts), "cardinality_exact": True}
    if not exact:
        column |= _cardinality(values, found["distinct"], limit)
    top = _top_candidates(counts, len(counts)).sort("rows", "key", descending=[True, False]).head(TOP_VALUES)
    column["top"] = [
        {"value": value if isinstance(value, int) else rounded(value), "count": rows} for value, rows in top.iter_rows()
    ]
    column |= distribution(counts, found["lowest"], found["highest"])
    if found["known"]:
        column |= _mean_and_std(values, float(found["lowest"]), float(found["highest"]), found["known"])
    if fitted and fitted["histogram"]["counts"]:
        column["on_fitted"] = _on_bins(counts, fitted)
    return column


def _mean_and_std(values: pl.LazyFrame, low: float, high: float, n: int) -> Column:
    """Exact sums of the values as 50-bit integers between low and high; halves, so that high - low cannot overflow."""
    step = (high / 2 - low / 2) / 2**49
    if step < sys.float_info.min:
        return {"mean": rounded(low), "std": 0.0}
    whole = ((_X.cast(pl.Float64) / 2 - low / 2) / step).round().cast(pl.Int128)
    sums = _one_row(values.select(x=whole), first=_X.sum(), second=(_X * _X).sum())
    variance = (n * sums["second"] - sums["first"] ** 2) / n**2
    return {"mean": rounded(low + sums["first"] / n * step * 2), "std": rounded(math.sqrt(variance) * step * 2)}


def _on_bins(counts: pl.DataFrame, fitted: Column) -> Column:
    """Rows in the fitted column's bins, and below its smallest and above its largest value."""
    key, rows = counts["key"].cast(pl.Float64).to_numpy(), counts["rows"].to_numpy()
    low, high = fitted["min"], fitted["max"]
    return {
        "counts": histogram_counts(fitted["histogram"]["edges"], key, rows),
        "below": int(rows[key < low - ROUNDING * abs(low)].sum()),
        "above": int(rows[key > high + ROUNDING * abs(high)].sum()),
    }


# --- lists and times -------------------------------------------------------------------------------------------------


def _lists(values: pl.LazyFrame, fitted: Column | None, vocabulary: Sequence[str] | None, limit: int) -> Column:
    """Nulls and distinct lists, their lengths, and the profile of all elements as one column."""
    found = _one_row(values, rows=pl.len(), nulls=_X.null_count(), distinct=_X.hash().approx_n_unique())
    filled = values.filter(_X.list.len() > 0)
    lengths = _counts(values, _X.list.len())
    elements = filled.select(_X.list.explode())
    return {
        **_nulls(found),
        **_cardinality(values, found["distinct"], limit),
        "length": distribution(lengths),
        "elements": column_profile(
            elements, fitted=fitted and fitted["elements"], vocabulary=vocabulary, distinct_limit=limit
        ),
    }


def _times(values: pl.LazyFrame, fitted: Column | None, limit: int) -> Column:
    found = _one_row(
        values,
        rows=pl.len(),
        nulls=_X.null_count(),
        distinct=_X.approx_n_unique(),
        first=_X.min(),
        last=_X.max(),
        whole_days=(_X % SECONDS["day"] == 0).all(),
    )
    column = _nulls(found) | _cardinality(values, found["distinct"], limit)
    column |= {"min": _moment(found["first"]), "max": _moment(found["last"])}
    column["series"] = _series(values, found["first"], found["last"], found["whole_days"])
    if fitted and fitted["max"]:
        last = int(np.datetime64(fitted["max"], "s").astype(np.int64))
        column["on_fitted"] = {"before_end": _one_row(values.filter(last > _X), rows=pl.len())["rows"]}
    return column


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else str(np.datetime64(seconds, "s"))


def _series(values: pl.LazyFrame, first: int | None, last: int | None, whole_days: bool) -> Column:
    """Rows per hour, day, week or several weeks: the finest that the times know and that gives at most MAX_POINTS."""
    if first is None or last is None:
        return {"start": None, "step_seconds": SECONDS["day"], "counts": []}
    steps = [SECONDS["day"], SECONDS["week"]] if whole_days else list(SECONDS.values())
    step = next((step for step in steps if last - first < step * (MAX_POINTS - 1)), 0)
    step = step or SECONDS["week"] * math.ceil((last - first) / (SECONDS["week"] * (MAX_POINTS - 1)))
    start = first // step * step
    counts = _counts(values, _X.floordiv(step))
    points = np.zeros(last // step - first // step + 1, np.int64)
    points[counts["key"].to_numpy() - first // step] = counts["rows"].to_numpy()
    return {"start": _moment(start), "step_seconds": step, "counts": points.tolist()}
