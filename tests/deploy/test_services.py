"""The services of a workstation: pinned, on the loopback address, no open password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_parts import DEPLOY

YAMLS = sorted(DEPLOY.rglob("*.yml"))
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_configuration_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_there_are_prometheus_grafana_and_a_collector() -> None:
    assert {"prometheus", "grafana", "collector"} <= set(SERVICES)


@each_service
def test_an_image_is_of_one_version(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@each_service
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "ports" not in service, "it listens in the host's network"


@each_service
def test_what_a_service_mounts_is_there(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).is_dir()
        else:
            assert source in COMPOSE["volumes"]


def test_every_address_is_the_loopback_address() -> None:
    receivers = yaml.safe_load((DEPLOY / "collector/collector.yml").read_text("utf-8"))
    protocols = receivers["receivers"]["otlp"]["protocols"].values()
    addresses = [protocol["endpoint"] for protocol in protocols]
    for name, option in (
        ("prometheus", "--web.listen-address="),
        ("node-exporter", "--web.listen-address="),
    ):
        (found,) = [c for c in SERVICES[name]["command"] if c.startswith(option)]
        addresses.append(found.removeprefix(option))
    addresses.append(SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] + ":")
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    everywhere = re.compile(r"\b0\.0\.0\.0\b|\[::\]")
    assert not any(everywhere.search(path.read_text("utf-8")) for path in YAMLS)


def test_grafana_does_not_start_without_a_password_of_ones_own() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith(
        "${GRAFANA_ADMIN_PASSWORD:?"
    )
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    for path in YAMLS:
        assert not re.search(r"password:\s*\w", path.read_text("utf-8"), re.IGNORECASE)


def test_prometheus_scrapes_what_runs_serve_and_what_they_leave() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"]
        for job in config["scrape_configs"]
    }
    assert targets == {
        "ultimate-embedder": ["127.0.0.1:9464"],
        "ultimate-embedder-textfile": ["127.0.0.1:9100"],
    }
    assert config["rule_files"] == ["alerts.yml"]


def test_grafana_finds_data_source_and_dashboards_by_provisioning() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load(
        (provisioning / "datasources/prometheus.yml").read_text("utf-8")
    )["datasources"]
    (provider,) = yaml.safe_load(
        (provisioning / "dashboards/dashboards.yml").read_text("utf-8")
    )["providers"]
    grafana = SERVICES["grafana"]
    assert source["url"] == "${PROMETHEUS_URL}"
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://127.0.0.1:9090"
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in grafana["volumes"]
