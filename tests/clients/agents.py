"""The clients: how each is pointed at a gateway, run without a terminal, and what its file-reading tool is called."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.providers import MODULES, NODE_BIN

LIMIT = 90.0
"""Seconds a client may take."""


@dataclass(frozen=True)
class Job:
    """One run: where the gateway is, the key it knows, the model to ask for, the prompt, and two folders.

    With `resume` it goes on with the session that the last run in these folders left.
    """

    base: str
    key: str
    model: str
    prompt: str
    home: Path
    work: Path
    resume: bool = False


@dataclass(frozen=True)
class Start:
    """A command line and what the environment holds besides HOME and PATH."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Agent:
    """One client. `schema` is what the gateway's records call its protocol.

    With `everywhere` it meets all backends, else those of both plain schemas.
    """

    name: str
    schema: str
    tool: str
    arguments: Callable[[Path], dict]
    start: Callable[[Job], Start]
    everywhere: bool = False


def bin_of(name: str) -> str:
    """The installed command."""
    return str(MODULES / ".bin" / name)


def claude_code(job: Job) -> Start:
    """`claude -p` with its JSON summary; both model variables, because titles and the like are asked of the small one."""
    resume = ["--continue"] if job.resume else []
    return Start([bin_of("claude"), "--output-format", "json", *resume, "-p", job.prompt], {
        "ANTHROPIC_BASE_URL": job.base, "ANTHROPIC_API_KEY": job.key, "ANTHROPIC_MODEL": job.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": job.model, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1", "DISABLE_ERROR_REPORTING": "1", "DISABLE_AUTOUPDATER": "1",
    })


def claude_code_token(job: Job) -> Start:
    """The same with ANTHROPIC_AUTH_TOKEN, which is sent as `Authorization: Bearer`."""
    start = claude_code(job)
    env = {k: v for k, v in start.env.items() if k != "ANTHROPIC_API_KEY"}
    return Start(start.argv, {**env, "ANTHROPIC_AUTH_TOKEN": job.key})


CODEX = """\
model = "{model}"
model_provider = "gateway"
check_for_update_on_startup = false
analytics = {{ enabled = false }}

[model_providers.gateway]
name = "gateway"
base_url = "{base}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"
"""


def codex(job: Job) -> Start:
    """`codex exec`; a sandbox inside a container or a CI machine may be refused, so there is none."""
    folder = job.home / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CODEX.format(model=job.model, base=job.base))
    resume = ["resume", "--last"] if job.resume else []
    return Start([bin_of("codex"), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
                  *resume, job.prompt], {"GATEWAY_KEY": job.key})


def opencode(package: str) -> Callable[[Job], Start]:
    """`opencode run` with a provider of that AI SDK package."""
    def start(job: Job) -> Start:
        options = {"baseURL": f"{job.base}/v1", "apiKey": job.key}
        model = f"gateway/{job.model}"
        provider = {"npm": package, "name": "gateway", "options": options, "models": {job.model: {"name": job.model}}}
        config = {"$schema": "https://opencode.ai/config.json", "provider": {"gateway": provider}, "model": model,
                  "small_model": model, "share": "disabled", "autoupdate": False}
        (job.work / "opencode.json").write_text(json.dumps(config))
        resume = ["--continue"] if job.resume else []
        return Start([bin_of("opencode"), "run", "-m", model, *resume, job.prompt],
                     {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"})

    return start


def qwen_code(job: Job) -> Start:
    """`qwen -p` with the variables of any OpenAI client."""
    resume = ["--continue"] if job.resume else []
    return Start([bin_of("qwen"), "--yolo", "--auth-type", "openai", *resume, "-p", job.prompt], {
        "OPENAI_API_KEY": job.key, "OPENAI_BASE_URL": f"{job.base}/v1", "OPENAI_MODEL": job.model,
        "QWEN_TELEMETRY_ENABLED": "0",
    })


CONTINUE = """\
name: gateway
version: 1.0.0
schema: v1
models:
  - name: gateway
    provider: openai
    model: {model}
    apiBase: {base}/v1
    apiKey: {key}
    roles: [chat]
    capabilities: [tool_use]
"""


def continue_cli(job: Job) -> Start:
    """`cn -p` with a configuration file."""
    config = job.home / "config.yaml"
    config.write_text(CONTINUE.format(model=job.model, base=job.base, key=job.key))
    resume = ["--resume"] if job.resume else []
    return Start([bin_of("cn"), "--config", str(config), "--auto", *resume, "-p", job.prompt],
                 {"CONTINUE_CLI_ENABLE_TELEMETRY": "0", "CONTINUE_TELEMETRY_ENABLED": "0"})


def _key(name: str) -> Callable[[Path], dict]:
    return lambda path: {name: str(path)}


AGENTS = (
    Agent("claude-code", "anthropic", "Read", _key("file_path"), claude_code, everywhere=True),
    Agent("claude-code-token", "anthropic", "Read", _key("file_path"), claude_code_token),
    Agent("codex", "responses", "exec_command", lambda path: {"cmd": f"cat {path}"}, codex, everywhere=True),
    Agent("opencode-chat", "openai", "read", _key("filePath"), opencode("@ai-sdk/openai-compatible")),
    Agent("opencode-anthropic", "anthropic", "read", _key("filePath"), opencode("@ai-sdk/anthropic")),
    Agent("opencode-responses", "responses", "read", _key("filePath"), opencode("@ai-sdk/openai")),
    Agent("qwen-code", "openai", "read_file", _key("file_path"), qwen_code, everywhere=True),
    Agent("continue", "openai", "Read", _key("filepath"), continue_cli),
)


@dataclass(frozen=True)
class Outcome:
    """How a client ended."""

    code: int
    out: str
    err: str


def run(agent: Agent, job: Job) -> Outcome:
    """Run a client with a clean environment and no input; past the limit it and its children are killed."""
    start = agent.start(job)
    env = {"HOME": str(job.home), "PATH": f"{NODE_BIN}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "dumb",
           "NO_COLOR": "1", "NO_PROXY": "127.0.0.1", "SHELL": "/bin/sh", **start.env}
    process = subprocess.Popen(start.argv, env=env, cwd=job.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        _kill(process)
        out, err = process.communicate()
        raise AssertionError(f"{agent.name} did not end within {LIMIT:.0f} s\n{out}\n{err}") from None
    finally:
        _kill(process)
    return Outcome(process.returncode, out, err)


def _kill(process: subprocess.Popen) -> None:
    """End the whole session that was started, also what outlived its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
