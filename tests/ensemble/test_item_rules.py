"""Rules over items, against Python's own evaluation row by row, and what is no rule."""

from __future__ import annotations

import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.item_rules import MAX_LENGTH, RuleError, mask_of

ITEMS = pa.table(
    {
        "price": pa.array([10.0, 50.0, None, -0.0, 99.5]),
        "stock": pa.array([1, None, 3, 0, 2**60], pa.int64()),
        "group": pa.array(["Ladies", "Men", None, "", "Ladies"]).dictionary_encode(),
        "new": pa.array([True, False, None, True, False]),
        "sizes": pa.array([[1], [], None, [2], [3]]),
    }
)
COMPARE = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
CONSTANTS = {
    "price": st.one_of(st.sampled_from([0, 10, 50.0, -1, 99.5, 0.0, -0.0]), st.floats(-1e6, 1e6)),
    "stock": st.one_of(st.sampled_from([0, 1, 3, 2.5, 2**60]), st.integers(-5, 5)),
    "group": st.one_of(st.sampled_from(["Ladies", "Men", "", "é"]), st.text("Ma\"'\\", max_size=3)),
    "new": st.booleans(),
}


@st.composite
def atoms(draw):
    """A rule and the function of a row that says the same."""
    name = draw(st.sampled_from(list(CONSTANTS)))
    shape = draw(st.sampled_from(["compare", "in", "not in", "is None", "is not None"]))
    if shape == "compare":
        sign, constant = draw(st.sampled_from(list(COMPARE))), draw(CONSTANTS[name])
        return f"{name} {sign} {constant!r}", lambda row: row[name] is not None and COMPARE[sign](row[name], constant)
    if shape.startswith("is"):
        return f"{name} {shape}", lambda row: (row[name] is None) == (shape == "is None")
    chosen = draw(st.lists(CONSTANTS[name], max_size=3))
    return f"{name} {shape} {chosen!r}", lambda row: row[name] is not None and (row[name] in chosen) == (shape == "in")


def joined(children):
    def both(pair):
        (left, holds_left), (right, holds_right) = pair
        return st.sampled_from(
            [
                (f"({left}) and ({right})", lambda row: holds_left(row) and holds_right(row)),
                (f"({left}) or {right}", lambda row: holds_left(row) or holds_right(row)),
                (f"not ({left})", lambda row: not holds_left(row)),
            ]
        )

    return st.tuples(children, children).flatmap(both)


@given(rule=st.recursive(atoms(), joined, max_leaves=6))
@settings(max_examples=150, deadline=None)
def test_a_rule_says_what_python_says_of_each_row(rule):
    expression, holds = rule
    rows = ITEMS.drop_columns(["sizes"]).to_pylist()
    np.testing.assert_array_equal(mask_of(expression, ITEMS), [bool(holds(row)) for row in rows])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("0 < price <= 50", [1, 1, 0, 0, 0]),
        ("price > stock", [1, 0, 0, 0, 0]),
        ("new", [1, 0, 0, 1, 0]),
        ("not new", [0, 1, 1, 0, 1]),
        ("  True ", [1, 1, 1, 1, 1]),
        ("price >= -1 and\tgroup in ('Ladies',)", [1, 0, 0, 0, 1]),
    ],
)
def test_rules_by_hand(rule, expected):
    assert mask_of(rule, ITEMS).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("prise < 5", "character 1: items have no column 'prise'; did you mean 'price'"),
        ("new and price < '5'", r"character 17: column 'price' \(number\) is compared with '5' \(text\)"),
        ("price in [1, 'a']", "character 14: .*one type"),
        ("stock == True", "one type"),
        ("price", "expected something true or false"),
        ("price == None", "write `is None`"),
        ("price is 5", "`is` and `is not` are for a column"),
        ("group in 'Ladies'", "must be a list"),
        ("1 < 2", "both constant"),
        ("sizes is None", "column 'sizes' holds list"),
        (f"stock == {2**63}", "whole numbers reach"),
        ("group == '\\ud800'", "surrogate"),
        ("price <", "character"),
        ("", "a rule has columns"),
        ("price\0 < 5", "rule"),
        ("price < " + "1" * MAX_LENGTH, "at most 10,000"),
        ("(" * 4000 + "new" + ")" * 4000, "rule"),
        ("not " * 2000 + "new", "rule"),
        ("not " * 60 + "new", "50 levels"),
        ("price < " + "-" * 5000 + "1", "rule"),
        ("__import__('os').system('true')", "a rule has columns"),
        ("(lambda: True)()", "a rule has columns"),
        ("[x for x in (1,)] == price", "a rule has columns"),
        ("price.__class__ == 1", "a rule has columns"),
        ("price < 9**9**9", "a rule has columns"),
        ("price[0] < 1", "a rule has columns"),
        ("f'{price}' == group", "a rule has columns"),
        ("(price := 5) < 6", "a rule has columns"),
        ("new if new else new", "a rule has columns"),
        ("group == b'x'", "a rule has columns"),
        ("price < 1j", "a rule has columns"),
        ("price < ...", "a rule has columns"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(rule, message):
    with pytest.raises(RuleError, match=message):
        mask_of(rule, ITEMS)
