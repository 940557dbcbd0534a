"""Alert rules: what they cover, where their runbook is, and what promtool says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from deploy_parts import (
    PROMETHEUS,
    ROOT,
    parts_on_a_card,
    program,
    rules,
    watched_config,
)

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import GPU_MARGIN_BYTES
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener

RULES = {rule["alert"]: rule for rule in rules()}
each_rule = pytest.mark.parametrize("name", RULES)


def promtool(*arguments: str, text: bytes = b"") -> str:
    """Return what promtool says, which has to be that all is well."""
    result = subprocess.run(
        [program("promtool"), *arguments],
        input=text,
        cwd=PROMETHEUS,
        capture_output=True,
        check=False,
    )
    said = (result.stdout + result.stderr).decode()
    assert result.returncode == 0, said
    return said


def test_there_is_a_rule_for_each_thing_to_be_told() -> None:
    assert set(RULES) == {
        "RagChunksQuarantined",
        "RagFallbackInUse",
        "RagGpuPeakNearCap",
        "RagLastSuccessTooOld",
        "RagOutOfMemoryRetries",
        "RagProgressStalled",
        "RagRerankSlow",
        "RagSparseCoverageBelowOne",
    }


@each_rule
def test_a_rule_has_severity_summary_description_and_a_section_in_the_runbook(
    name: str,
) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page, _, section = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert section in {heading.lower().replace(" ", "-") for heading in headings}
    assert f"`{name}`" in (ROOT / page).read_text("utf-8")


def test_a_peak_is_near_the_cap_when_half_of_what_a_plan_leaves_is_gone() -> None:
    factors = re.findall(r"< ([\d *]+)", RULES["RagGpuPeakNearCap"]["expr"])
    product = 1
    for factor in factors[0].split("*"):
        product *= int(factor)
    assert product == GPU_MARGIN_BYTES // 2


@each_rule
def test_a_rule_is_tried_where_it_speaks_and_where_it_is_silent(name: str) -> None:
    groups = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))
    tried = [
        bool(test.get("exp_alerts"))
        for group in groups["tests"]
        for test in group["alert_rule_test"]
        if test["alertname"] == name
    ]
    assert set(tried) == {True, False}


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_the_unit_tests_of_the_rules_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_promtool_has_one_remark_on_the_metrics_of_a_run_on_a_gpu(
    tmp_path: Path,
) -> None:
    listener = PrometheusListener(tmp_path / "rag.prom")
    parts = parts_on_a_card(tmp_path)
    outcome = BatchRunner(watched_config(tmp_path), listener, "r", parts).run()
    assert outcome.exit_code == 0
    result = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=(tmp_path / "rag.prom").read_bytes(),
        capture_output=True,
        check=False,
    )
    remarks = (result.stdout + result.stderr).decode().splitlines()
    # A gauge whose name ends like a sample of a histogram: the name is fixed.
    assert [line.split()[0] for line in remarks] == ["rag_candidate_count"]
