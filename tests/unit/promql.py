"""Evaluates the part of PromQL that the chart's alerts are written in, at one moment, as Prometheus parses it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import promql_parser as promql

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Series = Mapping[tuple[str, Labels], float]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}
CALCULATE: dict[str, Callable[[float, float], float]] = {
    "-": operator.sub,
    "*": operator.mul,
    "+": operator.add,
    "/": operator.truediv,
}


def nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and everything in it."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        found = getattr(node, name, None)
        for each in found if isinstance(found, list) else [found] if found is not None else []:
            yield from nodes(each)


def selectors(node: Any) -> list[Any]:
    """Return the selectors of an expression."""
    return [each for each in nodes(node) if isinstance(each, promql.VectorSelector)]


def result_labels(node: Any, labels: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return the labels that every result has, given those of each metric."""
    if isinstance(node, promql.AggregateExpr):
        if str(node.op) == "topk":
            return result_labels(node.expr, labels)
        return set(node.modifier.labels) if node.modifier else set()
    if isinstance(node, promql.VectorSelector):
        return set(labels[node.name])
    if isinstance(node, promql.Call) and node.func.name == "absent":
        return set()
    if isinstance(node, promql.BinaryExpr) and str(node.op) == "or":
        return result_labels(node.lhs, labels) & result_labels(node.rhs, labels)
    parts = [getattr(node, name, None) for name in ("lhs", "expr", "vector_selector", "rhs")]
    parts += getattr(node, "args", None) or []
    found = [its for each in parts if each is not None and (its := result_labels(each, labels))]
    return found[0] if found else set()


def evaluate(text: str, now: float, series: Series, earlier: Series | None = None) -> Vector:
    """Return what an alert's expression yields; ``earlier`` are the series at the begin of a range."""
    found = _value(promql.parse(text), now, series, earlier or {})
    assert isinstance(found, dict)
    return found


def _value(node: Any, now: float, series: Series, earlier: Series) -> Vector | float:
    match node:
        case promql.ParenExpr():
            return _value(node.expr, now, series, earlier)
        case promql.NumberLiteral():
            return float(node.val)
        case promql.VectorSelector():
            return _selected(node, series)
        case promql.AggregateExpr():
            return _summed(node, _value(node.expr, now, series, earlier))
        case promql.Call():
            return _call(node, now, series, earlier)
    assert isinstance(node, promql.BinaryExpr), node
    left, right = (_value(each, now, series, earlier) for each in (node.lhs, node.rhs))
    if str(node.op) in ("and", "or", "unless"):
        assert isinstance(left, dict) and isinstance(right, dict)
        return _joined(str(node.op), left, right, node.modifier.matching if node.modifier else None)
    if isinstance(left, dict) and isinstance(right, dict):
        return _matched(str(node.op), left, right, node.modifier.matching)
    return _combined(str(node.op), left, right)


def _matched(op: str, left: Vector, right: Vector, on: Any) -> Vector:
    """Calculate with pairs that have the same labels of those that are named: one on each side."""

    def by_key(vector: Vector) -> Vector:
        found = {frozenset(each for each in labels if each[0] in on.labels): value for labels, value in vector.items()}
        assert len(found) == len(vector), "more than one on a side"
        return found

    lefts, rights = by_key(left), by_key(right)
    return {key: CALCULATE[op](value, rights[key]) for key, value in lefts.items() if key in rights}


def _joined(op: str, left: Vector, right: Vector, on: Any) -> Vector:
    """Combine two sets; those that are joined on some labels are the same if these are."""
    assert on is None or op != "or"
    if op == "or":
        return right | left

    def key(labels: Labels) -> Labels:
        return labels if on is None else frozenset(each for each in labels if each[0] in on.labels)

    there = {key(labels) for labels in right}
    return {labels: value for labels, value in left.items() if (key(labels) in there) == (op == "and")}


def _selected(node: Any, series: Series) -> Vector:
    return {
        labels: value for (name, labels), value in series.items() if name == node.name and _fits(node, dict(labels))
    }


def _fits(node: Any, labels: dict[str, str]) -> bool:
    for each in node.matchers.matchers:
        wanted = each.value.split("|")
        assert str(each.op) in ("MatchOp.Re", "MatchOp.Equal"), each.op
        if labels.get(each.name) not in wanted:
            return False
    return True


def _summed(node: Any, vector: Vector | float) -> Vector:
    assert isinstance(vector, dict) and str(node.op) == "sum"
    sums: Vector = {}
    for labels, value in vector.items():
        kept = frozenset(each for each in labels if each[0] in node.modifier.labels)
        sums[kept] = sums.get(kept, 0.0) + value
    return sums


def _call(node: Any, now: float, series: Series, earlier: Series) -> Vector | float:
    if node.func.name == "time":
        return now
    if node.func.name == "absent":
        return {} if _value(node.args[0], now, series, earlier) else {frozenset(): 1.0}
    assert node.func.name == "increase", node.func.name
    selector = node.args[0].vector_selector
    before = _selected(selector, earlier)
    return {labels: value - before[labels] for labels, value in _selected(selector, series).items() if labels in before}


def _combined(op: str, left: Vector | float, right: Vector | float) -> Vector | float:
    if op in COMPARE:
        assert isinstance(left, dict) and isinstance(right, float), "a vector is compared with a number"
        return {labels: value for labels, value in left.items() if COMPARE[op](value, right)}
    calculate = CALCULATE[op]
    if isinstance(left, float) and isinstance(right, float):
        return calculate(left, right)
    if isinstance(left, float) and isinstance(right, dict):
        return {labels: calculate(left, value) for labels, value in right.items()}
    raise AssertionError(f"not written for this {op}")
