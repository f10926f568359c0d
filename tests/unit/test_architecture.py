"""What may import what, and that generated code is what its source says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from extproc.pb import ext_proc_pb2 as pb

with warnings.catch_warnings():  # envoy-data-plane still uses what pydantic calls deprecated
    warnings.simplefilter("ignore")
    import envoy_data_plane.envoy.config.core.v3 as envoy_core
    import envoy_data_plane.envoy.service.ext_proc.v3 as envoy

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "extproc"
PURE = ("core", "schemas", "wire", "dialects", "compatibility", "tokens", "money", "textmodel")
IMPURE = re.compile(
    r"(grpc|redis|opentelemetry|prometheus_client|asyncio|logging|os|time|random|socket|aiohttp|google|subprocess"
    r"|threading|secrets|uuid|extproc\.pb|extproc\.(server|ledger|telemetry|up|envoyconf|cli|prices|demo))"
    r"(\.|$)"
)
MAY_USE = {
    "names": set[str](), "config": set[str](), "pb": set[str](), "demo": set[str](),
    "wire": {"core"},  # its errors only
    "schemas": {"core", "wire"},
    "dialects": {"core", "schemas"},
    "core": {"config", "dialects", "money", "names", "runtime", "schemas", "textmodel", "tokens", "wire"},
    "money": set[str](), "textmodel": set[str](), "commands": {"config", "core", "ledger", "money", "pb", "prices", "reports"},
    "admin_rpc": {"commands", "config", "core", "ledger", "money", "pb", "prices", "reports"},
    "reports": {"core", "money", "pb"},
    "compatibility": {"core", "dialects", "schemas"},
    "tokens": {"core"},
    "runtime": {"config", "core", "dialects"},
    "prices": {"core"},
    "ledger": {"core", "money", "pb"},
    "telemetry": {"core"},
    "envoyconf": {"config", "names", "runtime"},
    "server": {"core", "ledger", "names", "pb", "money", "runtime", "telemetry", "textmodel", "tokens"},
}
COMPOSITION = ("server/worker.py", "up/", "cli.py")


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(*parts: str) -> list[Path]:
    return sorted(p for part in parts or (".",) for p in (PACKAGE / part).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", sources(*PURE), ids=named)
def test_sans_io(path: Path) -> None:
    """The core, the schemas and the wire import no I/O, no clock, no environment, no randomness and no protobuf."""
    assert [name for name in imported(path) if IMPURE.match(name)] == []


@pytest.mark.parametrize("path", sources(*PURE), ids=named)
def test_no_clock(path: Path) -> None:
    """datetime is there for calendars; nobody pure asks it for the time."""
    called = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert called & {"now", "utcnow", "today"} == set()


@pytest.mark.parametrize("path", sources(), ids=named)
def test_layers(path: Path) -> None:
    """A layer uses only the layers below it; only worker.py, up/ and cli.py compose."""
    if named(path).startswith(COMPOSITION) or named(path) == "__init__.py":
        return
    layer = named(path).split("/")[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imported(path) if name.startswith("extproc.")}
    assert used - {layer} <= MAY_USE[layer]


def test_one_importer_of_the_ext_proc_messages() -> None:
    """Only the codec knows the messages of ext_proc."""
    assert [named(p) for p in sources() if any("ext_proc_pb2" in name for name in imported(p))] == ["server/codec.py"]


def test_one_importer_of_the_envoy_api() -> None:
    """Only the Envoy generator knows Envoy's configuration API."""
    users = {named(p).split("/")[0] for p in sources() if any("envoy_data_plane" in n for n in imported(p))}
    assert users == {"envoyconf"}


def test_no_code_among_the_envoy_configurations() -> None:
    """The folder envoy/ holds configuration only."""
    assert list((ROOT / "envoy").rglob("*.py")) == []


def test_generated_code_is_current(tmp_path: Path) -> None:
    """Compiling protos/ again gives exactly the files in extproc/pb."""
    protos = sorted(str(p) for p in (ROOT / "protos").glob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", *protos], check=True)
    fresh = {p.name: p.read_text("utf-8") for p in tmp_path.iterdir()}
    assert fresh
    assert fresh == {name: (PACKAGE / "pb" / name).read_text("utf-8") for name in fresh}


# ------------------------------------------------------------------------------------ the wire of ext_proc

_SAMPLES = {
    FieldDescriptor.CPPTYPE_STRING: "text", FieldDescriptor.CPPTYPE_BOOL: True, FieldDescriptor.CPPTYPE_INT32: 7,
    FieldDescriptor.CPPTYPE_ENUM: 1,
}


def fill(message: Message) -> None:
    """Set every field, of one member each in oneofs."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Struct":
        message["key"] = {"inner": ["text", 1.5, True, None]}  # type: ignore[index]
        return
    for field in message.DESCRIPTOR.fields:
        if (one := field.containing_oneof) is not None and message.WhichOneof(one.name):
            continue
        put(message, field)


def put(message: Message, field: FieldDescriptor) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        fill(value["name"])
    elif field.message_type is not None and field.is_repeated:
        fill(value.add())
    elif field.message_type is not None:
        value.SetInParent()
        fill(value)
    elif field.is_repeated:
        value.append("text")
    else:
        setattr(message, field.name, b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES
                else _SAMPLES[field.cpp_type])


def members(message: type[Message]) -> list[str]:
    return [f.name for one in message.DESCRIPTOR.oneofs for f in one.fields]


@pytest.mark.parametrize("member", members(pb.ProcessingRequest))
def test_requests_read_the_same(member: str) -> None:
    """A request of every kind means the same in our subset and in Envoy's whole API."""
    same(pb.ProcessingRequest(), envoy.ProcessingRequest, member)


@pytest.mark.parametrize("member", members(pb.ProcessingResponse))
def test_responses_read_the_same(member: str) -> None:
    """A response of every kind means the same in our subset and in Envoy's whole API."""
    same(pb.ProcessingResponse(), envoy.ProcessingResponse, member)


@pytest.mark.parametrize("member", members(pb.BodyMutation))
def test_body_mutations_read_the_same(member: str) -> None:
    """A body mutation of every kind means the same in our subset and in Envoy's whole API."""
    same(pb.BodyMutation(), envoy.BodyMutation, member)


def same(ours: Message, theirs: type[envoy.ProcessingRequest | envoy.ProcessingResponse | envoy.BodyMutation],
         member: str) -> None:
    put(ours, ours.DESCRIPTOR.fields_by_name[member])
    fill(ours)
    parsed = theirs.parse(ours.SerializeToString())
    meant = json_format.MessageToDict(ours)
    assert json.loads(parsed.to_json()) == meant, "Envoy reads what we write"
    back = type(ours).FromString(bytes(parsed))
    assert json_format.MessageToDict(back) == meant, "we read what Envoy writes"
    assert back == ours


@pytest.mark.parametrize("action", [0, 1, 2, 3])
def test_append_actions_have_the_same_numbers(action: int) -> None:
    """The ways to set a header have Envoy's numbers."""
    ours = pb.HeaderValueOption.HeaderAppendAction.Name(action)
    assert envoy_core.HeaderValueOptionHeaderAppendAction(action).name == ours


def test_a_request_with_fields_we_do_not_know() -> None:
    """What Envoy sends beyond our subset is skipped, and the rest is read."""
    message = envoy.ProcessingRequest(
        request_headers=envoy.HttpHeaders(
            headers=envoy_core.HeaderMap(headers=[envoy_core.HeaderValue(key=":path", raw_value=b"/x")]),
            end_of_stream=True),
        observability_mode=True,
        protocol_config=envoy.ProtocolConfiguration(send_body_without_waiting_for_header_response=True),
    )
    ours = pb.ProcessingRequest.FromString(bytes(message))
    assert ours.request_headers.headers.headers[0].raw_value == b"/x"
    assert ours.request_headers.end_of_stream
