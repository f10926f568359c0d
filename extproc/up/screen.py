"""The one screen that `extproc up` prints."""

from __future__ import annotations

from extproc.up.gateway import Gateway

_WIDTH = 12


def render(gateway: Gateway, took: float) -> str:
    """Where to point a client, what was found, where state is kept."""
    url, config = f"http://{gateway.listen}", gateway.effective.config
    key = "any-text" if config.auth.mode == "none" else "YOUR-GATEWAY-KEY"
    lines = [
        f"extproc is up ({took:.1f} s): one address for every client and every model", "",
        "  OpenAI clients      " + f"export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}",
        "  Anthropic clients   " + f"export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}", "",
        "  models     " + "auto, " + ", ".join(config.chains) + ", or BACKEND/MODEL", "",
        "  backends",
    ]
    for name, backend in config.backends.items():
        note = f"  ({backend.note})" if backend.note else ""
        spoken = gateway.effective.dialects[name]
        lines.append(f"    {name:<{_WIDTH}} {backend.location:<6} {spoken:<10} {backend.base_url}{note}")
    lines += ["", "  chains"]
    lines += [f"    {name:<{_WIDTH}} {' > '.join(entries)}" for name, entries in config.chains.items()]
    lines += [
        "", f"  store      {gateway.store.note}",
        f"  admin      http://{gateway.admin}/health  /metrics  /backends   (gRPC at {gateway.admin_grpc})",
        f"  envoy      http://{gateway.envoy_admin}  (logs of all parts in {gateway.folders.logs})",
        f"  workers    {len(gateway.workers.sockets)}", "",
        f"  try        curl {url}/v1/chat/completions -H 'content-type: application/json' \\",
        """               -d '{"model":"auto","messages":[{"role":"user","content":"hi"}]}'""",
        "", "  Ctrl-C stops everything.",
    ]
    return "\n".join(lines)
