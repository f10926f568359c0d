"""A policy to try out: a gateway.yaml, or a part of one that the configuration in force completes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from extproc.commands.store import CommandError, Place, read_text
from extproc.config import GatewayConfig, read


def planned(path: Path, place: Place, config: Path | None) -> tuple[GatewayConfig, GatewayConfig]:
    """Return the configuration in force and the planned one. Raises CommandError, ConfigError.

    `path`: of the policy; `config`: of the configuration in force, where it was given.
    """
    if place.config is None:
        raise CommandError("give the gateway.yaml in force with -c: the policy is held against it")
    # `find` reads the configuration of a gateway that runs here from beside its store.
    source = config or Path(place.url.removeprefix("unix://")).parent / "gateway.yaml"
    text = merged(read(path), read(source))
    return place.config, read_text(text, str(path), path.parent)


def merged(policy: str, current: str) -> str:
    """The policy's text with the top-level settings behind it that it lacks; a policy with backends is whole already.

    Settings are taken as they are written, and at the end, so that errors name the policy's own lines.
    """
    own, rest = _tree(policy), _tree(current)
    if not isinstance(own, dict) or not isinstance(rest, dict) or "backends" in own:
        return policy  # reading it says what is wrong
    lacking = [f"{json.dumps(key)}: {json.dumps(value, default=str)}" for key, value in rest.items() if key not in own]
    if policy.lstrip().startswith("{"):
        policy = "\n".join(f"{json.dumps(key)}: {json.dumps(value, default=str)}" for key, value in own.items())
    return "\n".join([policy.rstrip(), *lacking, ""])


def _tree(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        return None
