"""SignedLogNormalize against its formula."""

import numpy as np
import pandas as pd
import pytest
from merlin.dag import ColumnSelector

from features.ops.signed_log_normalize import SignedLogNormalize


def fitted(values: list[np.ndarray]) -> SignedLogNormalize:
    operator, selector = SignedLogNormalize(), ColumnSelector(["x"])
    partials = [operator._partial(selector, pd.DataFrame({"x": part})) for part in values]
    operator.fit_finalize(operator._merge(partials))
    return operator


def normalized(operator: SignedLogNormalize, values: np.ndarray) -> np.ndarray:
    return operator.transform(ColumnSelector(["x"]), pd.DataFrame({"x": values}))["x"].to_numpy()


def test_numbers_of_either_sign_become_normal_logarithms_and_nan_the_mean() -> None:
    values = np.random.default_rng(0).normal(0, 100, 1_000)
    values[::7] = np.nan
    operator = fitted([values[:300], values[300:301], values[301:]])
    signed = np.sign(values) * np.log(1 + np.abs(values))
    expected = np.nan_to_num((signed - np.nanmean(signed)) / np.nanstd(signed, ddof=1))
    found = normalized(operator, values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e300])
def test_a_constant_column_becomes_0(value: float) -> None:
    operator = fitted([np.full(10, value)])
    assert (normalized(operator, np.array([value, value + 1.0, np.nan])) == 0).all()


def test_a_column_of_nothing_becomes_0() -> None:
    assert (normalized(fitted([np.full(5, np.nan)]), np.array([1.0, np.nan])) == 0).all()
