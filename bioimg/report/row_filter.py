"""Select and sort rows: the flags `--rows` and `--sort`."""

import ast
from collections.abc import Sequence

import pandas as pd

from bioimg.config import TRIAL_FIELDS
from bioimg.errors import UserError, unknown_value_error

CONDITION_HINT = (
    "Write comparisons of columns with values, joined by and, or, not: "
    "--rows 'freeze == \"none\" and batch_size >= 64'."
)
STATUS_ORDER = {"completed": 0, "stopped": 1, "failed": 2}


def select_rows(trials: pd.DataFrame, query: str | None) -> pd.DataFrame:
    """Return the rows that meet a condition such as `freeze == "none"`.

    `DataFrame.query`, which evaluates the condition, can call methods and read variables.
    Therefore the condition is parsed first, and only comparisons of columns and literals pass.

    Raises:
        UserError: the condition is anything else, names no column, or compares text with numbers.
    """
    if not query:
        return trials
    try:
        condition = ast.parse(query.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(
            f"the value of `rows` is {query!r}, but must be a condition (== compares, = doesn't). "
            f"{CONDITION_HINT}"
        ) from None
    _check_condition(condition, query, list(trials.columns))
    try:
        return trials.query(ast.unparse(condition), engine="python", local_dict={}, global_dict={})
    except (TypeError, ValueError, NotImplementedError):
        raise UserError(
            f"the value of `rows` is {query!r}, but must compare text with text and numbers with "
            f"numbers."
        ) from None


def format_condition(query: str) -> str:
    """Return a valid condition on one line, in Python's own spacing and quotes."""
    return ast.unparse(ast.parse(query.strip(), mode="eval"))


def _check_condition(node: ast.expr, query: str, columns: Sequence[str]) -> None:
    match node:
        case ast.BoolOp():
            for value in node.values:
                _check_condition(value, query, columns)
        case ast.UnaryOp(op=ast.Not()):
            _check_condition(node.operand, query, columns)
        case ast.Compare():
            for operand in (node.left, *node.comparators):
                _check_operand(operand, query, columns)
        case _:
            raise _forbidden_element_error(node, query)


def _check_operand(node: ast.expr, query: str, columns: Sequence[str]) -> None:
    match node:
        case ast.Name():
            if node.id not in columns:
                raise unknown_value_error("rows", node.id, columns)
        case ast.Constant(value=str() | int() | float()):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            pass
        case ast.List() | ast.Tuple():
            for element in node.elts:
                _check_operand(element, query, columns)
        case _:
            raise _forbidden_element_error(node, query)


def _forbidden_element_error(node: ast.expr, query: str) -> UserError:
    return UserError(
        f"the value of `rows` is {query!r}, but must not contain {ast.unparse(node)!r}. "
        f"{CONDITION_HINT}"
    )


def sort_rows(trials: pd.DataFrame, sort: Sequence[str]) -> pd.DataFrame:
    """Sort rows by columns: settings in ascending order, measures with the best first.

    Completed rows (by `state`) come before stopped ones, and these before failed ones.

    Raises:
        UserError: there is no such column.
    """
    for name in sort:
        if name not in trials:
            raise unknown_value_error("sort", name, trials.columns)
    if not sort:
        return trials
    ascending = [not more_is_better(name) for name in sort]
    ranked = trials.assign(_status=trials["state"].map(STATUS_ORDER))
    ranked = ranked.sort_values(["_status", *sort], ascending=[True, *ascending], kind="stable")
    return ranked.drop(columns="_status")


def more_is_better(name: str) -> bool:
    """Return True if the best value of a column is its highest one."""
    if name in TRIAL_FIELDS:
        return False
    return name.endswith("accuracy") or name in ("macro_f1", "auroc", "runs")
