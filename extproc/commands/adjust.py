"""`extproc budgets adjust`: correct by hand what budgets have spent, by the provider's invoice or a credit note."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, find, one_line, run, store_options

if TYPE_CHECKING:
    from extproc.core.admission import Identity
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.money.amounts import Budget

MODEL = "(correction)"
"""What usage has in the place of a model."""
LONGEST_REASON = 200
_FOREVER = b"\xff" * 6
"""In an id, the time at which it was made: the store remembers an id for a while beyond that."""
_PERIODS = ("minute", "hour", "day", "week", "month", "total")


@click.command()
@click.option("--budget", "budgets", multiple=True, required=True,
              help="Whose: DIMENSION:NAME as `extproc budgets` lists them, such as team:web; may be repeated.")
@click.option("--usd", help="Dollars to add to what is spent, such as -1.50; at most nine decimals.")
@click.option("--tokens", type=int, help="Tokens to add to what is spent.")
@click.option("--per", multiple=True, type=click.Choice(_PERIODS), help="Only these windows; default: all.")
@click.option("--day", help="The day (UTC) whose windows and usage are corrected; default: today.")
@click.option("--reason", required=True, help="Why; it stands in the record.")
@click.option("--id", "name", required=True, help="A name for this correction, by which it is made only once.")
@store_options
@one_line
def adjust(budgets: tuple[str, ...], usd: str | None, tokens: int | None, per: tuple[str, ...], day: str | None,
           reason: str, name: str, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Correct what budgets have spent. The org's own budgets count the same money, so they are corrected as well."""
    nano, place = _nano(usd), find(redis_url, config, state, org)
    if not nano and not tokens:
        raise CommandError("nothing to correct; give --usd or --tokens, other than 0")
    if not reason.strip() or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise CommandError(f"--reason: expected 1 to {LONGEST_REASON} printable characters")
    if not name.strip() or len(name) > LONGEST_REASON or not name.isprintable():
        raise CommandError(f"--id: expected 1 to {LONGEST_REASON} printable characters")
    who, moment = _who(place.org, budgets), _moment(day)
    told = run(place, lambda ledger: _adjust(ledger, who, per, moment, (nano, tokens or 0), (name, reason)))
    click.echo(f"org {place.org}: {told}", err=True)


def _nano(text: str | None) -> int:
    """Return dollars in n$. Raises CommandError."""
    from extproc.money.amounts import LARGEST

    try:
        nano = Decimal(text or "0").scaleb(9)
    except ArithmeticError:
        nano = Decimal("nan")
    if not nano.is_finite() or nano != nano.to_integral_value() or abs(nano) > LARGEST:
        raise CommandError(f"--usd {(text or '')[:40]}: expected dollars with at most nine decimals, such as -1.50")
    return int(nano)


def _who(org: str, budgets: tuple[str, ...]) -> Identity:
    """Return who has all these budgets. Raises CommandError."""
    from extproc.core.admission import Identity

    named: dict[str, str] = {"org": org, "team": ""}
    for text in budgets:
        dimension, colon, value = text.partition(":")
        if not colon or not value or dimension not in ("org", "team", "project", "user", "key"):
            raise CommandError(f"--budget {text[:80]}: expected DIMENSION:NAME such as team:web; dimensions: org, "
                               "team, project, user, key")
        if named.get(dimension, value) not in ("", value):
            raise CommandError(f"--budget {text[:80]}: there is another {dimension} in this correction: "
                               f"{named[dimension]}; correct them one by one")
        named[dimension] = value
    return Identity(**named)


def _moment(day: str | None) -> int:
    """Return a moment of the day (ms): now, or the last one of another day, whose windows are then those of its end."""
    now = datetime.now(UTC)
    if day is None or day == now.date().isoformat():
        return int(now.timestamp() * 1000)
    try:
        found = date.fromisoformat(day)
    except ValueError as error:
        raise CommandError(f"--day {day[:40]}: expected a day (UTC) such as 2026-10-31") from error
    if found > now.date():
        raise CommandError(f"--day {day[:40]}: is yet to come")
    return int(datetime.combine(found, time(23, 59, 59), UTC).timestamp() * 1000)


def adjust_id(name: str) -> bytes:
    """Return the id of a correction by its name. It never grows old, so that a name counts once for ever."""
    return _FOREVER + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=10).digest()


async def _adjust(ledger: RedisTreasury, who: Identity, per: tuple[str, ...], moment: int, amounts: tuple[int, int],
                  about: tuple[str, str]) -> str:
    """Correct, and return what to tell. Raises CommandError, LedgerUnavailable."""
    from extproc.ledger.base import RollupRow
    from extproc.pb import usage_pb2 as pb
    from extproc.reports.periods import day_of

    budgets = await _budgets(ledger, who, per, moment, amounts)
    admission = pb.Admission(request_id=about[0], org=who.org, team=who.team, project=who.project, user=who.user,
                             key=who.key, reason=about[1], admitted_unix_ms=moment)
    row = RollupRow(day_of(moment), who.team, who.project, who.user, who.key, MODEL, "")
    done = await ledger.adjust(who.org, adjust_id(about[0]), admission.SerializeToString(), row, budgets, *amounts)
    match done.code:
        case "DONE":
            unfunded = done.unfunded_nano_usd
            debt = f"; no budget could fund {_usd(unfunded)} of it: debt" if unfunded else ""
            many = "1 window is" if len(budgets) == 1 else f"{len(budgets)} windows are"
            return f"{many} corrected by {_told(amounts)} ({about[0]}){debt}"
        case "DUP":
            return f"nothing done: {about[0]} was made before"
        case "BELOW_ZERO":
            raise CommandError(f"{_told(amounts)} is more than one of the windows has spent; choose with --per, or the "
                               "day with --day")
        case "TOO_OLD":
            raise CommandError("the store takes this correction for an old one; its clock is wrong")


async def _budgets(ledger: RedisTreasury, who: Identity, per: tuple[str, ...], moment: int, amounts: tuple[int, int],
                   ) -> tuple[Budget, ...]:
    from extproc.core.admission import entries_for
    from extproc.ledger.export import Log
    from extproc.money.amounts import Unit
    from extproc.money.tables import decode

    epoch, blob = await ledger.table(who.org)
    if not epoch:
        raise CommandError(f"org {who.org} has no budgets in this store; name another --org")
    wanted = [unit for unit, amount in ((Unit.USD, amounts[0]), (Unit.TOKENS, amounts[1])) if amount]
    entries = [entry for entry in entries_for(decode(blob), who)
               if entry.unit in wanted and (not per or entry.per in per)]
    dimensions = {entry.id.partition(".")[0] for entry in entries}
    for dimension in ("team", "project", "user", "key"):
        if getattr(who, dimension) and dimension not in dimensions:
            raise CommandError(f"no such budget is in force for {dimension}:{getattr(who, dimension)}; list them with: "
                               "extproc budgets")
    now = await Log(ledger).now_ms(who.org)
    found = tuple(budget for budget in (entry.at(moment) for entry in entries) if now < budget.until_ms)
    if not found:
        raise CommandError("no window of these budgets takes corrections any more: they do for their own length, at "
                           "most 8 days, after their end")
    return found


def _told(amounts: tuple[int, int]) -> str:
    return " and ".join(part for amount, part in zip(amounts, (_usd(amounts[0]), f"{amounts[1]:+} tokens"), strict=True)
                        if amount)


def _usd(nano: int) -> str:
    from extproc.reports.tables import dollars

    return f"{'+' if nano > 0 else ''}{dollars(nano)} dollars"
