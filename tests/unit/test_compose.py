"""The container files, checked without a Docker engine: what they name must exist and fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from extproc.config import load

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
METRICS = {
    "gen_ai_client_token_usage_total": {"token_type", "backend", "model"},
    "extproc_requests_total": {"route", "backend", "outcome"},
    "extproc_cost_usd_total": {"backend", "model"},
    "gen_ai_server_request_duration_seconds_bucket": {"backend", "model", "le"},
    "gen_ai_server_time_to_first_token_seconds_bucket": {"backend", "model", "le"},
    "extproc_failovers_total": {"backend"},
}
PROMQL = {"sum", "by", "rate", "increase", "histogram_quantile"}


def read(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / name)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return read("docker-compose.yml")["services"]


def mounts(services: dict[str, Any]) -> list[tuple[str, str]]:
    return [(n, v.split(":")[0]) for n, s in services.items() for v in s.get("volumes", [])]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docker/**/*.y*ml")), ids=lambda p: p.name)
def test_every_yaml_file_parses(path: Path) -> None:
    """Every YAML file under docker/ is a mapping."""
    assert isinstance(YAML(typ="safe").load(path), dict)


def test_every_mounted_file_exists(services: dict[str, Any]) -> None:
    """A bind mount names a file of the repository, as Docker would make a folder of a missing one."""
    files = [source for _, source in mounts(services) if source.startswith(".")]
    assert files
    assert [source for source in files if not (ROOT / source).is_file()] == []


def test_every_named_volume_is_declared_and_used(services: dict[str, Any]) -> None:
    """The named volumes at the bottom are exactly those that services mount."""
    used = {source for _, source in mounts(services) if not source.startswith(".")}
    assert used == set(read("docker-compose.yml")["volumes"])


def test_every_dependency_is_a_service_that_always_runs(services: dict[str, Any]) -> None:
    """`depends_on` names services of the file, none of them behind a profile."""
    for name, service in services.items():
        for other in service.get("depends_on", []):
            assert other in services, (name, other)
            assert "profiles" not in services[other], (name, other)


def test_awaited_health_is_checked(services: dict[str, Any]) -> None:
    """Who is waited for until healthy has a health check."""
    for service in services.values():
        conditions = service.get("depends_on", {})
        if isinstance(conditions, dict):
            assert all("healthcheck" in services[other] for other in conditions)


def test_images_are_pinned(services: dict[str, Any]) -> None:
    """Every image has a version tag, in the compose file and in the Dockerfile."""
    images = [s["image"] for s in services.values() if "image" in s]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [image for image in images if not re.search(r":v?\d+\.\d+", image)] == []


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    """Nothing is reachable from another machine, and no two services want one port."""
    ports = [p for s in services.values() for p in s.get("ports", [])]
    assert [p for p in ports if not p.startswith(f"{LOOPBACK}:")] == []
    hosts = [p.split(":")[1] for p in ports]
    assert len(set(hosts)) == len(hosts)


def test_redis_keeps_what_the_ledger_needs(services: dict[str, Any]) -> None:
    """Redis persists and never evicts."""
    line = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in line
    assert "--maxmemory-policy noeviction" in line


def test_image_runs_as_envoys_user_without_the_extras() -> None:
    """The image drops root and installs the bare package."""
    text = (ROOT / "Dockerfile").read_text()
    assert "\nUSER 101:101\n" in text
    assert re.search(r"pip install --no-cache-dir \.$", text, re.MULTILINE)


def test_image_context_holds_what_the_dockerfile_copies() -> None:
    """Every path copied from the context exists and is let through by .dockerignore."""
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert copied == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.fixture
def environment(services: dict[str, Any]) -> dict[str, str]:
    """What the extproc container sees when only the required variable is set."""
    default = re.compile(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}")
    given = services["extproc"]["environment"]
    filled = {name: default.sub(r"\1", value) for name, value in given.items()}
    return filled | {"EXTPROC_KEY_SHA256": "0" * 64}


def test_gateway_config_is_valid(environment: dict[str, str]) -> None:
    """docker/gateway.yaml loads with the variables that compose passes, and asks for a key."""
    config = load(ROOT / "docker/gateway.yaml", environment)
    assert config.auth.mode == "keys"


def test_gateway_config_fits_the_services(services: dict[str, Any], environment: dict[str, str]) -> None:
    """Hosts and ports of docker/gateway.yaml are those of the compose file."""
    config = load(ROOT / "docker/gateway.yaml", environment)
    assert urlsplit(config.redis).hostname in services
    assert urlsplit(config.telemetry.otlp_endpoint or "").hostname in services
    local = [b.base_url for b in config.backends.values() if b.location == "local"]
    assert {urlsplit(url).hostname for url in local} <= set(services)
    for name, address in {"envoy": config.listen, "extproc": config.admin}.items():
        inner = {p.rpartition(":")[2] for p in services[name]["ports"]}
        assert address.rpartition(":")[2] in inner


def test_prometheus_scrapes_the_services(services: dict[str, Any], environment: dict[str, str]) -> None:
    """Scrape targets are the admin ports of extproc and Envoy."""
    jobs = {j["job_name"]: j for j in read("docker/prometheus.yml")["scrape_configs"]}
    targets = {t for j in jobs.values() for c in j["static_configs"] for t in c["targets"]}
    config = load(ROOT / "docker/gateway.yaml", environment)
    ports = {"extproc": config.admin, "envoy": config.envoy_admin}
    assert targets == {f"{name}:{address.rpartition(':')[2]}" for name, address in ports.items()}
    assert set(ports) <= set(services)
    assert jobs["envoy"]["metrics_path"] == "/stats/prometheus"


def test_grafana_sources_are_services(services: dict[str, Any]) -> None:
    """Data sources point at services of the compose file."""
    urls = [source["url"] for source in read("docker/grafana/datasources.yml")["datasources"]]
    assert {urlsplit(url).hostname for url in urls} <= set(services)


def test_dashboard_is_provisioned_where_it_is_mounted(services: dict[str, Any]) -> None:
    """Grafana's provider reads the folder into which the dashboard is mounted."""
    folder = read("docker/grafana/dashboards.yml")["providers"][0]["options"]["path"]
    targets = [v.split(":")[1] for v in services["grafana"]["volumes"]]
    assert f"{folder}/extproc.json" in targets
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in targets


def dashboard_expressions() -> list[str]:
    board = json.loads((ROOT / "docker/grafana/extproc.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_dashboard_asks_for_known_metrics_and_labels(expression: str) -> None:
    """An expression names one of our metrics, and groups by labels that it has."""
    words = set(re.findall(r"[a-z_]+", re.sub(r"\$\w+", "", expression)))
    metrics = words & set(METRICS)
    assert len(metrics) == 1
    assert words - metrics - PROMQL <= METRICS[metrics.pop()]


def test_dashboard_shows_every_metric() -> None:
    """No metric of the list is left without a panel."""
    text = " ".join(dashboard_expressions())
    assert [name for name in METRICS if name not in text] == []


def test_dashboard_panels_use_a_provisioned_source() -> None:
    """Every panel's data source has the uid that the provisioning file gives."""
    known = {source["uid"] for source in read("docker/grafana/datasources.yml")["datasources"]}
    panels = json.loads((ROOT / "docker/grafana/extproc.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} <= known
