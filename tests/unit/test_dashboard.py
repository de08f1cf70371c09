"""The Grafana dashboard: each query names metrics and labels that there are, and each panel has a place of its own."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from longboat.plan.metrics import METRICS
from scripts.generated_chart import render
from tests.unit.promql import nodes, result_labels, selectors

TOP = Path(__file__).parents[2]
CHART = TOP / "charts/longboat"
BOARD: dict[str, Any] = json.loads((CHART / "files/dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [each for each in BOARD["panels"] if each["type"] != "row"]
VARIABLES = {each["name"]: each for each in BOARD["templating"]["list"]}
LABELS = {metric.name: metric.labels for metric in METRICS if metric.type != "summary"} | {
    f"{metric.name}_{part}": metric.labels
    for metric in METRICS
    if metric.type == "summary"
    for part in ("count", "sum")
}
# It has no metric of its own: the ones beside it tell of the same.
SHOWN_ELSEWHERE = {
    "longboat_policy_info",
    "longboat_store_info",
    "longboat_policy_expected_interval_seconds",
    "longboat_policy_disks_left_out",
    "longboat_store_last_check_timestamp_seconds",
    "longboat_store_locks_kept_timestamp_seconds",
    "longboat_store_repositories",
    "longboat_store_prune_timestamp_seconds",
    "longboat_store_damaged_backups",
}


def targets(panel: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the queries of a panel, as Prometheus parses them, and as they are."""
    return [(promql.parse(each["expr"]), each) for each in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda each: each["title"])
def test_panel_asks_for_metrics_and_labels_that_there_are(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for expression, target in targets(panel):
        assert selectors(expression)
        for selector in selectors(expression):
            assert selector.name in LABELS, selector.name
            assert {each.name for each in selector.matchers.matchers} <= set(LABELS[selector.name])
        told = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert told <= result_labels(expression, LABELS), "a legend that the result does not have"


@pytest.mark.parametrize("panel", PANELS, ids=lambda each: each["title"])
def test_labels_that_a_scrape_adds_make_no_second_line(panel: dict[str, Any]) -> None:
    """The pod of the operator has another name after each restart."""
    for expression, _ in targets(panel):
        for node in nodes(expression):
            if isinstance(node, promql.AggregateExpr) and str(node.op) != "topk" and node.modifier is not None:
                inside = set[str]().union(*(LABELS[each.name] for each in selectors(node)))
                assert set(node.modifier.labels) <= inside
        assert result_labels(expression, dict.fromkeys(LABELS, ("pod",))) & {"pod"} == set()


def test_what_is_asked_for_is_of_the_chosen_data_source_namespace_and_store() -> None:
    for panel in PANELS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"] == "${DS_PROMETHEUS}"
        used = set(re.findall(r"\$(\w+)", " ".join(each["expr"] for each in panel["targets"])))
        assert used <= set(VARIABLES)
        for expression, _ in targets(panel):
            for selector in selectors(expression):
                choice = {"namespace", "store"} & set(LABELS[selector.name])
                assert not choice or choice & {each.name for each in selector.matchers.matchers}, selector.name
    for name, of in (("namespace", "longboat_policy_info"), ("store", "longboat_store_info")):
        assert VARIABLES[name]["definition"] == f"label_values({of}, {name})" and name in LABELS[of]


def test_panels_have_names_and_places_of_their_own() -> None:
    assert len({each["id"] for each in BOARD["panels"]}) == len(BOARD["panels"])
    for one, other in combinations((each["gridPos"] for each in BOARD["panels"]), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(each["gridPos"]["x"] + each["gridPos"]["w"] <= 24 for each in BOARD["panels"])


def test_new_metrics_are_shown_or_left_out_on_purpose() -> None:
    asked = {each.name for panel in PANELS for expression, _ in targets(panel) for each in selectors(expression)}
    assert set(LABELS) - asked == SHOWN_ELSEWHERE


def test_chart_renders_the_dashboard_as_it_is_and_only_when_asked() -> None:
    found = render(CHART, "--values", str(CHART / "ci/monitoring-values.yaml"))
    [config_map] = [each for each in found if each["kind"] == "ConfigMap" and "dashboard" in each["metadata"]["name"]]
    assert json.loads(config_map["data"]["longboat.json"]) == BOARD
    meta = config_map["metadata"]
    assert (meta["namespace"], meta["labels"]["grafana_dashboard"]) == ("longboat-system", "1")
    assert meta["annotations"] == {"grafana_folder": "Backups"}
    assert not [each for each in render(CHART) if each["kind"] == "ConfigMap"]
