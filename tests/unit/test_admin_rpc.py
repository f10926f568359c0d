"""The admin service over gRPC on a real store: the same numbers as the command line, health, reflection, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from extproc.admin_rpc import server
from extproc.admin_rpc.server import SERVICE, AdminServer
from extproc.cli import main
from extproc.commands.store import read_config
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.pb import admin_pb2 as rpc
from extproc.pb import usage_pb2 as pb
from tests.contract.ledger_kit import ROW, make_rid
from tests.contract.ledger_servers import Server
from tests.data_plane.test_reports import GATEWAY, ORG, SPAN, TODAY, TOTAL, YESTERDAY, Filler

ANSWERS = {"ListUsage": rpc.UsageRow, "StreamRecords": rpc.Record, "ListBudgets": rpc.ListBudgetsResponse,
           "GetReport": rpc.Report}


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    own = Server("valkey")
    yield own
    own.remove()


@pytest.fixture(scope="module")
def gateway(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway.yaml whose store holds two days of usage."""
    path = tmp_path_factory.mktemp("gateway") / "gateway.yaml"
    path.write_text(GATEWAY.format(url=store.url))

    async def work() -> None:
        treasury = RedisTreasury(store.url, connect_timeout=2, call_timeout=5)
        await Filler(treasury, read_config(path, {})).fill()
        await treasury.close()

    asyncio.run(work())
    return path


@pytest.fixture
async def channel(store: Server, gateway: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to an admin service on the store."""
    config = read_config(gateway, {})
    own = AdminServer(store.url, lambda: config)
    port = await own.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    await own.stop()


def stub(channel: grpc.aio.Channel, method: str, *, stream: bool) -> Any:
    make = channel.unary_stream if stream else channel.unary_unary
    return make(f"/{SERVICE}/{method}", request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=ANSWERS[method].FromString)


async def usage(channel: grpc.aio.Channel, **fields: Any) -> list[rpc.UsageRow]:
    request = rpc.ListUsageRequest(since=YESTERDAY, until=TODAY, **fields)
    return [row async for row in stub(channel, "ListUsage", stream=True)(request)]


def told(gateway: Path, *words: str) -> Any:
    """What the command line says."""
    made = CliRunner().invoke(main, [*words, "-c", str(gateway), "--format", "json"], env={"REDIS_URL": None})
    assert made.exit_code == 0, made.output
    return json.loads(made.stdout)


async def test_usage_is_that_of_the_command(channel: grpc.aio.Channel, gateway: Path) -> None:
    """ListUsage streams the rows of `extproc usage`, to the nano-dollar, in its order."""
    rows = await usage(channel, by=["team", "model"])
    expected = (await asyncio.to_thread(told, gateway, "usage", *SPAN))["rows"]
    assert [{**row.dimensions, "requests": row.requests, "input": row.input_tokens, "output": row.output_tokens,
             "unpriced": row.unpriced_attempts, "cost_nano_usd": row.cost_nano_usd} for row in rows] == [
        {name: value for name, value in row.items() if name != "cost_usd"} for row in expected]
    assert sum(row.cost_nano_usd for row in rows) == TOTAL


async def test_usage_filters_and_sums(channel: grpc.aio.Channel) -> None:
    """Filters of one dimension are alternatives, those of several must all fit; no dimension is one row."""
    only = [rpc.Filter(dimension="team", value="web"), rpc.Filter(dimension="team", value="pay"),
            rpc.Filter(dimension="backend", value="claude")]
    [row] = await usage(channel, only=only)
    assert (dict(row.dimensions), row.cost_nano_usd) == ({}, TOTAL)
    [row] = await usage(channel, by=["day"], only=[rpc.Filter(dimension="key", value="größe")])
    assert (dict(row.dimensions), row.requests) == ({"day": YESTERDAY}, 2)
    assert await usage(channel, org="nobody", by=["team"]) == []


async def test_records_from_an_id(channel: grpc.aio.Channel, store: Server) -> None:
    """StreamRecords gives every record behind an id, each with the id to go on from."""
    call = stub(channel, "StreamRecords", stream=True)
    found = [record async for record in call(rpc.StreamRecordsRequest())]
    records = []
    for item in found:
        record = pb.UsageRecord()
        assert item.usage_record.Unpack(record)
        records.append(record)
    treasury = RedisTreasury(store.url, connect_timeout=2, call_timeout=5)
    assert records == await treasury.records(ORG, 100)
    await treasury.close()
    assert len(found) == 11
    rest = [record async for record in call(rpc.StreamRecordsRequest(from_id=found[4].id))]
    assert rest == found[5:]
    assert [record async for record in call(rpc.StreamRecordsRequest(from_id="$"))] == []
    assert [record async for record in call(rpc.StreamRecordsRequest(org="nobody"))] == []


async def test_records_as_they_come(channel: grpc.aio.Channel, store: Server) -> None:
    """With `follow` a record that comes later is given, once, and the call ends when the caller leaves."""
    treasury = RedisTreasury(store.url, connect_timeout=2, call_timeout=5)
    org = "follow"
    who = pb.Admission(request_id="one", org=org).SerializeToString()
    call = stub(channel, "StreamRecords", stream=True)(rpc.StreamRecordsRequest(org=org, follow=True))
    waiting = asyncio.ensure_future(call.read())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert (await treasury.note(org, make_rid(), who, ROW)).code == "DONE"
    record, first = pb.UsageRecord(), await asyncio.wait_for(waiting, 10)
    assert first.usage_record.Unpack(record)
    assert (record.state, record.admission.request_id) == ("cached", "one")
    waiting = asyncio.ensure_future(call.read())
    await asyncio.sleep(1.2)
    assert not waiting.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await treasury.close()


async def test_budgets_are_those_of_the_command(channel: grpc.aio.Channel, gateway: Path) -> None:
    """ListBudgets has the windows of `extproc budgets`; a window that never ends has no end."""
    answer = await stub(channel, "ListBudgets", stream=False)(rpc.ListBudgetsRequest())
    expected = (await asyncio.to_thread(told, gateway, "budgets"))["rows"]
    assert [(b.whom, b.name, b.per, b.unit, b.spent, b.reserved, b.debt, b.limit, b.free, b.used_permille / 10, b.window)
            for b in answer.budgets] == [
        (row["whom"], row["name"], row["per"], row["unit"], row["spent"], row["reserved"], row["debt"], row["limit"],
         row["free"], row["used_percent"], row["budget"]) for row in expected]
    first = answer.budgets[0]
    assert (first.name, first.spent, first.HasField("ends_unix_ms")) == ("acme", TOTAL, False)
    assert answer.time_unix_ms > 1_700_000_000_000


async def test_report_is_that_of_the_command(channel: grpc.aio.Channel, gateway: Path) -> None:
    """GetReport has the sums of `extproc report`."""
    request = rpc.GetReportRequest(since=YESTERDAY, until=TODAY, top=2)
    report = await stub(channel, "GetReport", stream=False)(request)
    expected = await asyncio.to_thread(told, gateway, "report", *SPAN, "--top", "2")
    [total], [savings] = expected["total"], expected["savings"]
    assert (report.org, report.since, report.until, report.baseline) == (
        ORG, YESTERDAY, TODAY, "anthropic/claude-sonnet-5")
    assert (report.requests, report.tokens, report.cost_nano_usd, report.failed_over) == (
        total["requests"], total["tokens"], TOTAL, 1)
    assert dict(report.states) == {"done": 5, "unsent": 1, "expired": 1, "late": 1, "orphan": 1, "cached": 1, "adjust": 1}
    assert [(s.model, s.backend, s.attempts, s.cost_nano_usd) for s in report.spend] == [
        (row["model"].replace("(correction)", ""), row["backend"], row["attempts"], row["cost_nano_usd"])
        for row in expected["spend"]]
    assert (report.savings.compared, report.savings.left_out, report.savings.actual_nano_usd,
            report.savings.baseline_nano_usd) == (savings["requests"], savings["left_out"],
                                                  savings["actual_nano_usd"], savings["at_baseline_nano_usd"])
    assert (report.local.requests, report.cloud.requests) == (2, 5)
    assert {why: share.requests for why, share in report.could_be_local.items()} == {
        row["why"]: row["requests"] for row in expected["could_be_local"]}
    assert [(f.from_backend, f.to_backend, f.cause, f.times) for f in report.failovers] == [("claude", "qwen", "429", 1)]
    assert [(one.request_id, one.cost_nano_usd) for one in report.dearest] == [
        (row["request_id"], row["cost_nano_usd"]) for row in expected["top"]]


@pytest.mark.parametrize(("method", "request_", "status", "says"), [
    ("ListUsage", rpc.ListUsageRequest(by=["price"]), "INVALID_ARGUMENT", "expected some of day, team"),
    ("ListUsage", rpc.ListUsageRequest(since="7h"), "INVALID_ARGUMENT", "give days or weeks"),
    ("ListUsage", rpc.ListUsageRequest(only=[rpc.Filter(value="x")]), "INVALID_ARGUMENT", "names one dimension"),
    ("StreamRecords", rpc.StreamRecordsRequest(from_id="yesterday"), "INVALID_ARGUMENT", "an id of the stream"),
    ("StreamRecords", rpc.StreamRecordsRequest(from_id="9" * 99 + "-0"), "INVALID_ARGUMENT", "an id of the stream"),
    ("ListBudgets", rpc.ListBudgetsRequest(org="nobody"), "FAILED_PRECONDITION", "org nobody has no budgets"),
    ("GetReport", rpc.GetReportRequest(baseline="sonnet"), "INVALID_ARGUMENT", "expected PROVIDER/MODEL"),
    ("GetReport", rpc.GetReportRequest(baseline="nobody/nothing"), "INVALID_ARGUMENT", "does not know it"),
    ("GetReport", rpc.GetReportRequest(top=1001), "INVALID_ARGUMENT", "at most 1000"),
    ("GetReport", rpc.GetReportRequest(until="soon"), "INVALID_ARGUMENT", "expected a date"),
], ids=lambda value: value if isinstance(value, str) else "")
async def test_refusals(channel: grpc.aio.Channel, method: str, request_: Any, status: str, says: str) -> None:
    """What cannot be understood is said with what is expected, under the right status."""
    stream = method in ("ListUsage", "StreamRecords")
    call = stub(channel, method, stream=stream)(request_)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (call.read() if stream else call)
    assert refused.value.code().name == status
    assert says in refused.value.details()


async def test_health_tells_of_the_store(gateway: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is healthy while the store answers and again after it was away; the process stays up."""
    monkeypatch.setattr(server, "LOOK", 0.1)
    own, config = await asyncio.to_thread(Server, "valkey"), read_config(gateway, {})
    admin = AdminServer(own.url, lambda: config)
    port = await admin.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub_ = health_pb2_grpc.HealthStub(channel)

        async def until(status: int) -> None:
            async with asyncio.timeout(10):
                while (await stub_.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status != status:
                    await asyncio.sleep(0.05)

        await until(health_pb2.HealthCheckResponse.SERVING)
        await asyncio.to_thread(own.kill)
        await until(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await stub_.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await usage(channel, by=["team"])
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.to_thread(own.start)
        await until(health_pb2.HealthCheckResponse.SERVING)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub_.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    await admin.stop()
    own.remove()


async def test_reflection(channel: grpc.aio.Channel) -> None:
    """A tool without our files finds the services, the service's methods, and the schema of a record."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask(**fields: str) -> reflection_pb2.ServerReflectionResponse:
        call = reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(**fields))
        answer = await call.read()
        await call.done_writing()
        return answer

    listed = await ask(list_services="")
    names = [service.name for service in listed.list_services_response.service]
    assert sorted(names) == ["extproc.admin.v1.Admin", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]

    async def files(symbol: str) -> list[descriptor_pb2.FileDescriptorProto]:
        found = await ask(file_containing_symbol=symbol)
        return [descriptor_pb2.FileDescriptorProto.FromString(blob)
                for blob in found.file_descriptor_response.file_descriptor_proto]

    methods = [method for file in await files(SERVICE) for service in file.service for method in service.method]
    assert [(method.name, method.server_streaming) for method in methods] == [
        ("ListUsage", True), ("StreamRecords", True), ("ListBudgets", False), ("GetReport", False)]
    assert [file.name for file in await files("extproc.usage.UsageRecord")] == ["usage.proto"]


async def test_address_that_is_taken(store: Server, gateway: Path) -> None:
    """An address in use is an OSError, which the supervisor turns into a line."""
    config = read_config(gateway, {})
    first, second = AdminServer(store.url, lambda: config), AdminServer(store.url, lambda: config)
    port = await first.start("127.0.0.1:0")
    with pytest.raises(OSError, match="127"):
        await second.start(f"127.0.0.1:{port}")
    await first.stop()
    await second.stop()
