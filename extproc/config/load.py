"""Reading a gateway.yaml: every error names the file, the line, the path and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import pydantic
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from extproc.config.auth import CLAIM
from extproc.config.model import GatewayConfig
from extproc.config.references import references
from extproc.config.values import NAME, SHA256

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ConfigError(Exception):
    """The configuration is unusable; `lines` says where and why, one finding each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load(path: Path, env: Mapping[str, str] = os.environ, *, folder: Path | None = None) -> GatewayConfig:
    """Read and validate a gateway.yaml; `file:` secrets are relative to `folder` (default: the file's own).

    Raises:
        ConfigError: with one line per finding, each naming file, line, path and what is allowed.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    return parse(text, str(path), folder or path.parent, env)


def changed_at(path: Path) -> int:
    """Return when a configuration was written, in ms: the generation of its budgets where it names none."""
    return path.stat().st_mtime_ns // 1_000_000


def parse(text: str, name: str, folder: Path, env: Mapping[str, str] = os.environ) -> GatewayConfig:
    """Validate the text of a gateway.yaml; `file:` secrets are relative to `folder`. Raises ConfigError."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "cannot be read").split("\n")[0]
        if problem.startswith("but ") and error.context:
            problem = f"{error.context}, {problem}"
        if isinstance(error, DuplicateKeyError):  # its text quotes both values, and they may be secrets
            problem = problem.partition(" with value ")[0]
        raise ConfigError([f"{name}:{line}: not valid YAML: {problem}"]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{name}:1: not valid YAML"]) from error
    if not isinstance(tree, CommentedMap):
        raise ConfigError([f"{name}:1: expected a mapping with backends and chains"])
    findings: list[str] = []
    try:
        filled = _fill(tree, (), env, folder, findings, tree, name)
    except RecursionError as error:
        raise ConfigError([f"{name}:1: an alias contains itself"]) from error
    if findings:
        raise ConfigError(findings)
    try:
        config = GatewayConfig.model_validate(filled)
    except pydantic.ValidationError as error:
        raise ConfigError([_explain(item, tree, name) for item in error.errors()]) from error
    findings = [f"{name}:{_line(tree, path)}: {_dotted(path)}: {text}" for path, text in references(config)]
    if findings:
        raise ConfigError(findings)
    return config


def _fill(value: Any, path: tuple[str | int, ...], env: Mapping[str, str], folder: Path,
          findings: list[str], tree: CommentedMap, name: str) -> Any:
    """Replace ${VAR}, ${VAR:-default}, file: secrets and files of keys; collect what is missing."""
    if isinstance(value, CommentedMap):
        return {str(k): _fill(v, (*path, str(k)), env, folder, findings, tree, name) for k, v in value.items()}
    if isinstance(value, CommentedSeq):
        return [_fill(v, (*path, i), env, folder, findings, tree, name) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    where = f"{name}:{_line(tree, path)}: {_dotted(path)}"

    def variable(match: re.Match[str]) -> str:
        found = env.get(match[1]) or match[2]
        if found is None:
            findings.append(f"{where}: environment variable {match[1]} is not set; export it or write "
                            f"${{{match[1]}:-default}}")
            return ""
        return found

    text = _VARIABLE.sub(variable, str(value))
    secret = bool(path) and path[-1] == "api_key" and text.startswith("file:")
    if not secret and path != ("auth", "jwt", "jwks", "file"):
        return text
    file, kind = (text[5:], "secret file") if secret else (text, "file")
    try:
        return (folder / file).read_text("utf-8").strip()
    except OSError as error:
        findings.append(f"{where}: {kind} {file} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        findings.append(f"{where}: {kind} {file} is not UTF-8 text")
    return text


def _dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out or "(top)"


def _line(tree: CommentedMap, path: tuple[str | int, ...]) -> int:
    """The line of the deepest node of `path` that the file has."""
    node: Any = tree
    line = 1
    for step in path:
        if isinstance(node, CommentedMap) and step in node:
            line = int(cast(Any, node).lc.key(step)[0]) + 1
            node = node[step]
        elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
            line = int(cast(Any, node).lc.item(step)[0]) + 1
            node = node[step]
        else:
            break
    return line


def _fields_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys the model allows in the mapping that `path` points into."""
    model: type[BaseModel] = GatewayConfig
    for step in path:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == step), None)
        if field is None:
            continue  # a mapping key or a list index
        inner = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if inner:
            model = inner[0]
    return sorted(f.alias or n for n, f in model.model_fields.items())


def _types(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *[t for arg in inner for t in _types(arg)]]


_EXPECTED = {
    "string_type": "text", "bool_type": "true or false", "int_type": "a whole number", "float_type": "a number",
    "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "finite_number": "a finite number",
}
_PATTERNS = {
    NAME: "a name of up to 64 letters, digits, dots, dashes and underscores",
    CLAIM: "the name of a claim, or names joined by dots, such as realm_access.team",
    SHA256: "64 hexadecimal digits, as printed by: extproc keys create",
}


def _explain(item: Any, tree: CommentedMap, name: str) -> str:
    """One line for one pydantic finding: where, what, and what is allowed."""
    path = tuple(step for step in item["loc"] if step != "[key]")
    where = f"{name}:{_line(tree, path)}: {_dotted(path)}"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields_at(path[:-1])
        close = get_close_matches(str(path[-1]), allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{where}: is required"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{where}: allowed: {', '.join(allowed)}"
    if kind == "too_short":
        return f"{where}: needs at least {context['min_length']} entry"
    if kind == "greater_than_equal":
        return f"{where}: expected a number of at least {context['ge']:g}"
    if kind == "less_than_equal":
        return f"{where}: expected a number of at most {context['le']:g}"
    expected = _EXPECTED.get(kind) or (_PATTERNS.get(context["pattern"]) if "pattern" in context else None)
    return f"{where}: expected {expected}" if expected else f"{where}: {str(item['msg']).removeprefix('Value error, ')}"
