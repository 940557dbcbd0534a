"""Dashboards keep the published rules for Grafana dashboards.

The rules are those of grafana/dashboard-linter (docs/rules), with its list of units cut
to what is used here, and a few of our own: descriptions, legends, refresh, links.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from deploy_parts import DASHBOARDS, dashboard, grouped_labels, panels

UNITS = {"bytes", "cps", "percentunit", "s", "short"}  # ids of Grafana's value formats
TYPES = {"bargauge", "stat", "timeseries"}
FROM_VARIABLE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of Grafana's grid

each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def variables(path: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in dashboard(path)["templating"]["list"]}


def test_there_are_the_four_dashboards() -> None:
    assert [path.stem for path in DASHBOARDS] == [
        "fallbacks-quarantine",
        "gpu-memory",
        "run-overview",
        "sparse-rerank",
    ]


@each_dashboard
def test_a_dashboard_has_uid_title_description_tag_time_and_refresh(path: Path) -> None:
    content = dashboard(path)
    assert content["uid"] == f"ultimate-embedder-{path.stem}"
    assert len(content["uid"]) <= 40, "the longest that Grafana takes"
    assert content["id"] is None, "ids are given by the Grafana that loads it"
    assert content["title"].startswith("Ultimate Embedder / ")
    assert content["description"]
    assert content["tags"] == ["ultimate-embedder"]
    assert content["editable"] is False
    assert re.fullmatch(r"now-\d+[hd]", content["time"]["from"])
    assert content["time"]["to"] == "now"
    assert re.fullmatch(r"\d+[sm]", content["refresh"])


def test_titles_and_uids_are_used_once() -> None:
    contents = [dashboard(path) for path in DASHBOARDS]
    for field in ("uid", "title"):
        assert len({content[field] for content in contents}) == len(contents)


@each_dashboard
def test_the_data_source_is_a_variable(path: Path) -> None:
    (source,) = [v for v in variables(path).values() if v["type"] == "datasource"]
    assert (source["name"], source["label"]) == ("datasource", "Data source")
    assert source["query"] == "prometheus"
    assert source["current"] == {}, "the Grafana that loads it chooses"


@each_dashboard
@pytest.mark.parametrize("name", ["job", "instance"])
def test_job_and_instance_can_be_chosen(path: Path, name: str) -> None:
    variable = variables(path)[name]
    assert variable["label"] == name
    assert variable["type"] == "query"
    assert variable["datasource"] == FROM_VARIABLE
    assert variable["definition"] == variable["query"]["query"]
    assert re.fullmatch(
        rf"label_values\(rag_\w+(\{{.*\}})?, {name}\)", variable["definition"]
    )
    assert (variable["multi"], variable["includeAll"]) == (True, True)
    assert variable["allValue"] == ".+"
    assert variable["refresh"] == 2, "on a change of the time range"


@each_dashboard
def test_a_panel_has_title_description_known_unit_and_text_for_no_data(
    path: Path,
) -> None:
    for panel in panels(path):
        assert panel["type"] in TYPES
        assert panel["title"], panel["id"]
        assert len(panel["description"]) > 20, panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["noValue"], panel["title"]


@each_dashboard
def test_titles_and_ids_of_panels_are_used_once(path: Path) -> None:
    for field in ("title", "id"):
        used = [panel[field] for panel in panels(path)]
        assert len(set(used)) == len(used), field


@each_dashboard
def test_no_data_source_is_hard_coded(path: Path) -> None:
    for panel in panels(path):
        assert panel["datasource"] == FROM_VARIABLE, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == FROM_VARIABLE, panel["title"]


@each_dashboard
def test_each_selector_of_a_target_is_bound_to_job_and_instance(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            metrics = re.findall(r"\brag_\w+(\{[^}]*\})?", target["expr"])
            assert metrics, panel["title"]
            for matchers in metrics:
                assert 'job=~"$job"' in matchers, panel["title"]
                assert 'instance=~"$instance"' in matchers, panel["title"]


@each_dashboard
def test_windows_are_those_that_grafana_reckons(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            windows = re.findall(r"\[([^\]]*)\]", target["expr"])
            assert set(windows) <= {"$__rate_interval"}, panel["title"]
            for called in re.findall(r"\b(rate|increase)\(", target["expr"]):
                assert windows, called


@each_dashboard
def test_a_legend_names_the_instance_and_only_labels_that_are_there(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert shown[0] == "instance", panel["title"]
            assert set(shown) <= grouped_labels(target["expr"]), panel["title"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]


@each_dashboard
def test_panels_lie_in_the_grid_and_not_over_one_another(path: Path) -> None:
    places = [panel["gridPos"] for panel in panels(path)]
    for place in places:
        assert place["x"] + place["w"] <= WIDTH
    for one, other in itertools.combinations(places, 2):
        beside = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        )
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart


@each_dashboard
def test_links_lead_to_the_other_dashboards(path: Path) -> None:
    others = {f"/d/{dashboard(p)['uid']}" for p in DASHBOARDS if p != path}
    assert {link["url"] for link in dashboard(path)["links"]} == others
