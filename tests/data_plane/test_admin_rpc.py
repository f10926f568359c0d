"""The operator's side of a running gateway: admin gRPC, export, and spend that comes back after a loss of the store."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from extproc.cli import main
from extproc.ledger import embedded
from extproc.pb import admin_pb2 as rpc
from extproc.pb import usage_pb2
from tests.data_plane.conftest import running
from tests.data_plane.test_budgets import answer

CONFIG = """\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
admin_grpc: 127.0.0.1:{dead}
envoy_admin: 127.0.0.1:{envoy_admin}
workers: 1
redis: {store}
backends:
  oa0: {{schema: openai, base_url: "http://127.0.0.1:{up}/oa0/v1", api_key: sk-0, location: cloud,
         models: {{m: {{usd_per_million_input: 1000, usd_per_million_output: 1000}}}}}}
chains: {{cloud: [oa0/m]}}
models: {{auto: cloud}}
budgets:
  - {{for: {{org: default}}, usd: 6, per: total}}
  - {{for: {{team: "*"}}, usd: 100, per: month}}
"""
SERVICE = "extproc.admin.v1.Admin"
COST = 1_100_000_000
"""Of `answer()` at the price above."""


@pytest.fixture(scope="module")
def gateway(_upstream):
    """A gateway with budgets and an admin service."""
    with running(_upstream, template=CONFIG) as plane:
        yield plane


@pytest.fixture
def plane(gateway):
    """The gateway with fresh scripts."""
    gateway.upstream.reset()
    gateway.upstream.always["oa0"] = answer()
    yield gateway


def ask(plane):
    """One request that costs COST."""
    return plane.chat("cloud", max_completion_tokens=100)


@pytest.fixture
def channel(plane):
    """A connection to the gateway's admin service."""
    address = re.search(r"admin_grpc: (\S+)", plane.text)[1]
    with grpc.insecure_channel(address) as made:
        yield made


def call(channel, method, request, answer, *, stream=False):
    """A call of the admin service; a list where it streams."""
    make = channel.unary_stream if stream else channel.unary_unary
    found = make(f"/{SERVICE}/{method}", request_serializer=lambda message: message.SerializeToString(),
                 response_deserializer=answer.FromString)(request, timeout=20)
    return list(found) if stream else found


def run(*words: str | Path, code: int = 0) -> str:
    """A command in this process; what it says."""
    told = CliRunner().invoke(main, [str(word) for word in words], env={"REDIS_URL": None})
    assert told.exit_code == code, told.output + repr(told.exception)
    return told.stderr


def test_admin_service_of_a_running_gateway(plane, channel):
    """A request is seen by a call that follows the stream, and in usage, budgets and report; health is good."""
    follow = channel.unary_stream(
        f"/{SERVICE}/StreamRecords", request_serializer=rpc.StreamRecordsRequest.SerializeToString,
        response_deserializer=rpc.Record.FromString)(rpc.StreamRecordsRequest(follow=True), timeout=30)
    got = ask(plane)
    assert got.status == 200
    record = usage_pb2.UsageRecord()
    assert next(follow).usage_record.Unpack(record)
    follow.cancel()
    assert (record.admission.request_id, record.delta_nano_usd) == (got.headers["x-extproc-request-id"], COST)
    [row] = call(channel, "ListUsage", rpc.ListUsageRequest(by=["model"], since="1d"), rpc.UsageRow, stream=True)
    assert (dict(row.dimensions), row.requests, row.cost_nano_usd) == ({"model": "m"}, 1, COST)
    windows = call(channel, "ListBudgets", rpc.ListBudgetsRequest(), rpc.ListBudgetsResponse).budgets
    assert [(w.whom, w.name, w.spent, w.reserved) for w in windows] == [
        ("org", "default", COST, 0), ("team", "default", COST, 0)]
    assert call(channel, "GetReport", rpc.GetReportRequest(), rpc.Report).cost_nano_usd == COST
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    assert SERVICE in [service.name for service in next(listing).list_services_response.service]


def test_address_is_shown(plane):
    """The screen tells where the admin service is."""
    assert f"gRPC at {re.search(r'admin_grpc: (.+)', plane.text)[1]}" in plane.log.read_text()


def test_a_store_that_lost_its_data(plane, channel, tmp_path):
    """Exported spend is back after the store has lost all: refused until rebuilt, then counted as if nothing was."""
    spent = call(channel, "ListBudgets", rpc.ListBudgetsRequest(), rpc.ListBudgetsResponse).budgets[0].spent
    for _ in range(2):
        plane.record(ask(plane))
        spent += COST
    run("export", "--to", tmp_path / "x", "-c", plane.config, "--trim")
    lines = [line for path in (tmp_path / "x").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert sum(json.loads(line)["delta_nano_usd"] for line in lines) == spent
    assert plane.records() == []
    store = replace_store(plane, tmp_path / "empty")
    try:
        assert ask(plane).status == 503
        assert "no records in the stream" in run("budgets", "rebuild", "-c", plane.config, code=1)
        told = run("budgets", "rebuild", "-c", plane.config, "--from", tmp_path / "x")
        assert f"2 windows made again from {len(lines)} records" in told
        windows = call(channel, "ListBudgets", rpc.ListBudgetsRequest(), rpc.ListBudgetsResponse).budgets
        assert [(w.whom, w.spent, w.debt) for w in windows] == [("org", spent, 0), ("team", spent, 0)]
        served = 0
        while (got := ask(plane)).status == 200:
            served += 1
            plane.record(got)
        assert got.status == 429
        assert 1 <= served <= (6 * 10**9 - spent) // COST
    finally:
        store.terminate()
        store.wait(10)


def replace_store(plane, data: Path) -> subprocess.Popen[bytes]:
    """Kill the store and put one without data in its place, as after the loss of a disk."""
    path = Path(urlsplit(plane.store).path)
    os.kill(plane.store_pid, signal.SIGKILL)
    time.sleep(0.2)
    path.unlink(missing_ok=True)
    data.mkdir()
    store = subprocess.Popen(embedded.command(path, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    asyncio.run(embedded.wait_ready(plane.store, 10))
    return store
