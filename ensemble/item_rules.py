"""Rules over what is known of items, such as `price <= 50 and index_group_name == "Ladieswear"`.

A rule is read by Python's own parser and never run: only the few kinds of node listed here are understood, each of
which becomes one call of pyarrow's.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import CascadeError

# I items
MAX_LENGTH = 10_000
"""Most characters of a rule."""
MAX_NESTING = 50
"""Most levels of a rule; Python's parser would end the process at some depth."""
_LARGEST = 2**63 - 1
_COMPARE = {ast.Eq: "equal", ast.NotEq: "not_equal", ast.Lt: "less", ast.LtE: "less_equal"} | {
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_GRAMMAR = (
    "a rule has columns, numbers, texts, True, False, None, ==, !=, <, <=, >, >=, in [...], not in [...], is None, "
    "is not None, and, or, not, and parentheses"
)


class RuleError(CascadeError):
    """A rule that cannot be read, or does not fit the items."""


def mask_of(expression: str, table: pa.Table) -> np.ndarray:
    """Which items a rule holds for.

    A comparison with a missing value is false, `!=` and `not in` too; `not` around it is then true.

    Args:
        expression: the rule.
        table: a row an item; columns of numbers, texts and booleans may stand in rules.
    Returns: [I] bool.
    Raises: RuleError with the rule, the place in it, and what was expected.
    """
    return _Rule(expression, table).mask_of(_parsed(expression), 1)


@dataclass(frozen=True)
class _Value:
    """One side of a comparison: a column, or a constant if it has no name."""

    kind: str
    values: pa.Array | int | float | str | bool
    name: str = ""

    def __str__(self) -> str:
        return f"column {self.name!r} ({self.kind})" if self.name else f"{self.values!r} ({self.kind})"


@dataclass(frozen=True)
class _Rule:
    expression: str
    table: pa.Table

    def mask_of(self, node: ast.expr, depth: int) -> np.ndarray:
        if depth > MAX_NESTING:
            raise self.error(node, f"the rule is nested more than {MAX_NESTING} levels deep")
        match node:
            case ast.BoolOp(op, values):
                masks = [self.mask_of(value, depth + 1) for value in values]
                return (np.logical_and if isinstance(op, ast.And) else np.logical_or).reduce(masks)
            case ast.UnaryOp(ast.Not(), operand):
                return ~self.mask_of(operand, depth + 1)
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                pairs = zip(ops, sides, comparators, strict=False)
                return np.logical_and.reduce([self.compared(op, *pair) for op, *pair in pairs])
            case ast.Constant(bool(value)):
                return np.full(self.table.num_rows, value)
            case ast.Name():
                value = self.value_of(node)
                if value.kind != "boolean":
                    raise self.error(node, f"expected something true or false, got {value}; compare it")
                return _filled(value.values)
            case _:
                raise self.error(node, f"expected something true or false, got {self.text_of(node)}; {_GRAMMAR}")

    def compared(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> np.ndarray:
        value = self.value_of(left)
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None and value.name):
                raise self.error(right, "`is` and `is not` are for a column on the left and None on the right")
            return _filled(pc.is_null(value.values) if isinstance(op, ast.Is) else pc.is_valid(value.values))
        if isinstance(op, ast.In | ast.NotIn):
            return self.among(op, value, left, right)
        other = self.value_of(right)
        self.fits(value, other, right)
        if not (value.name or other.name):
            raise self.error(left, f"{value} and {other} are both constant; one side must be a column")
        return _filled(pc.call_function(_COMPARE[type(op)], _alike([value.values, other.values])))

    def among(self, op: ast.cmpop, value: _Value, left: ast.expr, right: ast.expr) -> np.ndarray:
        if not value.name:
            raise self.error(left, f"the left side of `in` must be a column, got {value}")
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.error(right, f"the right side of `in` must be a list, got {self.text_of(right)}")
        chosen = [self.value_of(one) for one in right.elts]
        for one, node in zip(chosen, right.elts, strict=True):
            if one.name:
                raise self.error(node, f"a list holds constants only, got {one}")
            self.fits(value, one, node)
        column, *constants = _alike([value.values, *(one.values for one in chosen)])
        found = pc.is_in(column, value_set=pa.array([one.as_py() for one in constants], column.type))
        return _filled(found if isinstance(op, ast.In) else pc.and_(pc.invert(found), pc.is_valid(column)))

    def value_of(self, node: ast.expr) -> _Value:
        match node:
            case ast.Name(name):
                return self.column(name, node)
            case ast.Constant(bool(value)):
                return _Value("boolean", value)
            case ast.UnaryOp(ast.USub(), ast.Constant(int(value) | float(value))) if not isinstance(value, bool):
                return self.number(-value, node)
            case ast.Constant(int(value) | float(value)):
                return self.number(value, node)
            case ast.Constant(str(value)):
                if not value.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in value):
                    raise self.error(node, "the text is no valid Unicode: it has half of a surrogate pair")
                return _Value("text", value)
            case ast.Constant(None):
                raise self.error(node, "None is not compared with == or in; write `is None` or `is not None`")
            case _:
                raise self.error(node, f"expected a column or a constant, got {self.text_of(node)}; {_GRAMMAR}")

    def number(self, value: int | float, node: ast.expr) -> _Value:
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self.error(node, f"whole numbers reach from -{_LARGEST} to {_LARGEST}")
        return _Value("number", value)

    def column(self, name: str, node: ast.expr) -> _Value:
        if name not in self.table.column_names:
            near = difflib.get_close_matches(name, self.table.column_names, 1)
            known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.table.column_names)}"
            raise self.error(node, f"items have no column {name!r}; {known} (texts stand in quotes)")
        values = self.table[name].combine_chunks()
        if isinstance(values.type, pa.DictionaryType):
            values = values.cast(values.type.value_type)
        kind = _kind_of(values.type)
        if kind is None:
            raise self.error(node, f"column {name!r} holds {values.type}; rules know numbers, texts and booleans")
        if kind == "number":
            values = values.cast(pa.int64() if pa.types.is_signed_integer(values.type) else pa.float64(), safe=False)
        return _Value(kind, values, name)

    def fits(self, left: _Value, right: _Value, node: ast.expr) -> None:
        if left.kind != right.kind:
            raise self.error(node, f"{left} is compared with {right}; both sides must be of one type")

    def text_of(self, node: ast.expr) -> str:
        return f"`{ast.get_source_segment(self.expression.strip(), node)}`"

    def error(self, node: ast.expr, what: str) -> RuleError:
        line = self.expression.strip().splitlines()[node.lineno - 1]
        place = len(line.encode()[: node.col_offset].decode()) + 1
        return RuleError(f"rule {_short(self.expression)}, line {node.lineno}, character {place}: {what}")


def _parsed(expression: str) -> ast.expr:
    if len(expression) > MAX_LENGTH:
        raise RuleError(
            f"rule {_short(expression)} has {len(expression):,} characters; at most {MAX_LENGTH:,} are allowed"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in texts
            return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        place = f", line {error.lineno}, character {error.offset}" if error.lineno else ""
        raise RuleError(f"rule {_short(expression)}{place}: {error.msg}; {_GRAMMAR}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise RuleError(f"rule {_short(expression)} cannot be read ({error!r}); {_GRAMMAR}") from error


def _kind_of(dtype: pa.DataType) -> str | None:
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return "number"
    return "text" if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) else None


def _alike(values: list) -> list:
    """Columns and constants, whole numbers as fractions if others are: 0.0 without a sign, which lists would heed."""
    arrow = [one if isinstance(one, pa.Array) else pa.scalar(one) for one in values]
    if not any(pa.types.is_floating(one.type) for one in arrow):
        return arrow
    return [pc.add(pc.cast(one, pa.float64(), safe=False), 0.0) for one in arrow]


def _filled(mask: pa.Array) -> np.ndarray:
    """[I] bool, false where it is unknown."""
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def _short(expression: str) -> str:
    return repr(expression if len(expression) <= 80 else f"{expression[:77]}...")
