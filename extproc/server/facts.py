"""What a decision rested on, as the ledger keeps it: measures and names, so that another policy can be tried on it."""

from __future__ import annotations

from extproc.core.routing.flow import Decision
from extproc.pb import usage_pb2 as pb


def facts_message(decision: Decision | None, shadow_of: str = "") -> pb.Facts | None:
    """The facts of a decision; None where it left none. `shadow_of`: the request that this one is a copy of."""
    if decision is None or decision.basis is None:
        return None
    signals, valued = decision.basis.signals, decision.valued
    made = pb.Facts(
        input_tokens=signals.input_tokens, turns=signals.turns, tools=signals.tools, tool_rounds=signals.tool_rounds,
        tool_loop=signals.in_tool_loop, images=signals.images, needs=sorted(signals.needs), thinking=signals.thinking,
        agent=signals.agent, phase=signals.phase, pace=signals.pace, path=signals.path, kind=signals.task,
        structured=signals.structured, effort=signals.effort, warm_tokens=signals.warm_tokens, fills=signals.fills,
        shadow_of=shadow_of, session=signals.session)
    if signals.max_tokens is not None:
        made.max_tokens = signals.max_tokens
    if signals.budget_left is not None:
        made.budget_left_ppm = round(signals.budget_left * 1_000_000)
    if valued is not None:
        rated, made.cell = valued.rated, valued.cell
        made.task, made.aim = rated.task, decision.basis.view.routing.smart.kind
        made.score_ppm = round(rated.score * 1_000_000)
        if rated.p_local is not None and rated.p_cloud is not None:
            made.p_local_ppm, made.p_cloud_ppm = round(rated.p_local * 1_000_000), round(rated.p_cloud * 1_000_000)
    tried = () if decision.picked is None else decision.picked.tried
    if (rule := next((one.rule for one in tried if one.matched and not one.failed), None)) is not None:
        made.rule = rule + 1
    return made
