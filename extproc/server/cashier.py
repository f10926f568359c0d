"""What attempts cost, brought to the store; and what is dispatched without it, from a purse and with an intent."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.core import events as ev
from extproc.core.admission import Plan
from extproc.ledger.base import RollupRow, Settlement, Treasury
from extproc.ledger.delivery import Delivery
from extproc.ledger.spool import Entry, Spool
from extproc.money.amounts import Account, Ask, Ended, Grant, Need
from extproc.money.purse import Allowance, Purse
from extproc.pb import usage_pb2 as pb

PURSE = 0
"""The epoch in an ask that no store granted: a purse did, so there is no reservation."""


def from_purse(carried: ev.Carried) -> bool:
    """Whether a purse granted this request, at a moment when the store did not answer."""
    return carried.ask is not None and carried.ask.epoch == PURSE


class Cashier:
    """One per worker."""

    def __init__(self, ledger: Treasury, spool: Spool | None, *, new_id: Callable[[], bytes],
                 on_ended: Callable[[str, Ended], None], clock: Callable[[], int]) -> None:
        """`clock`: milliseconds since the epoch. `on_ended`: told what the store answered an end."""
        self.delivery = Delivery(ledger, spool, on_ended=on_ended, on_drained=self._refill,
                                 on_inherited=lambda count, nano: self._purse.inherit(count, nano, clock()))
        self._purse, self._new_id, self._clock = Purse(), new_id, clock
        self._running: dict[tuple[str, int], tuple[Need | None, Entry]] = {}

    def _refill(self) -> None:
        self._purse.refill()

    # ------------------------------------------------------------------------------------ without the store

    def grant(self, plan: Plan, ask: Ask, allowance: Allowance) -> ev.Reserved:
        """Answer for a store that is away: the dearest option that the purse covers, or DENIED. Nothing is taken yet,
        since the attempts may be another worker's. `ask`: the budgets that are charged later."""
        now = self._clock()
        chosen = self._purse.choose(plan.options, allowance, now)
        if chosen is None:
            return ev.Reserved("DENIED")
        return ev.Reserved("OK", Grant("OK", now, *chosen), msgspec.structs.replace(ask, epoch=PURSE, limits=()))

    def dispatch(self, carried: ev.Carried, action: ev.Begin, row: RollupRow, allowance: Allowance | None) -> bool:
        """Take an attempt's bound from the purse, and write down what it costs if nobody can say more.

        False: it must not be dispatched.
        """
        need, now = action.need, self._clock()
        if need is None or allowance is None or not self._purse.take(need, allowance, now):
            return False
        entry = self._intent(carried, action, row)
        if not self.delivery.intend(entry):
            self._purse.end(need, 0)
            return False
        self._running[carried.rid, action.attempt] = need, entry
        return True

    def remember(self, carried: ev.Carried, action: ev.Begin, row: RollupRow) -> None:
        """Write down an attempt that goes on without the store and without a purse: so it leaves a record though this
        worker may die, of what it costs at most, or of unknown cost."""
        entry = self._intent(carried, action, row)
        if self.delivery.intend(entry):
            self._running[carried.rid, action.attempt] = None, entry

    def _intent(self, carried: ev.Carried, action: ev.Begin, row: RollupRow) -> Entry:
        """What is charged for an attempt of which nobody says more."""
        cost, tokens = (None, 0) if action.need is None else (action.need.nano_usd, action.need.tokens)
        blob = pb.Attempt(number=action.attempt, backend=action.backend, model_used=action.model,
                          outcome=pb.Attempt.EXPIRED, cost_nano_usd=cost).SerializeToString()
        settlement = Settlement(blob, cost, tokens, 0, row, carried.rid)
        account = None if carried.ask is None else Account(carried.ask.budgets)
        return self._entry(carried, action.attempt, settlement, account, final=False, sure=False)

    # ------------------------------------------------------------------------------------ the end

    async def end(self, carried: ev.Carried, action: ev.End, settlement: Settlement, account: Account | None) -> None:
        """Settle an attempt: at once where the store answers, else when it does. Never raises."""
        known = self._running.pop((carried.rid, action.attempt), None)
        if known is None:
            entry = self._entry(carried, action.attempt, settlement, account, final=action.final, sure=action.begun)
        else:
            need, intent = known
            if need is not None:
                self._purse.end(need, action.cost)
            entry = msgspec.structs.replace(intent, settlement=settlement, account=account, final=action.final)
        await self.delivery.settle(entry)

    async def withdraw(self, carried: ev.Carried, attempt: int, settlement: Settlement) -> None:
        """End an attempt that is not made, and of which the store may have the begin. Never raises."""
        rid = bytes.fromhex(carried.rid)
        await self.delivery.settle(Entry(carried.admission.org, rid, attempt, settlement, False),
                                   "a begin was not taken back")

    def _entry(self, carried: ev.Carried, attempt: int, settlement: Settlement, account: Account | None, *,
               final: bool, sure: bool) -> Entry:
        """What the ledger never admitted is settled under an id of its own, as an orphan: a reservation that the store
        executes late, after we gave up on it, then closes unsent and cannot swallow what was used."""
        org, rid, stray = carried.admission.org, bytes.fromhex(carried.rid), self._new_id()
        if not carried.reserved or from_purse(carried):
            return Entry(org, stray, attempt, settlement, final, account)
        if sure:
            return Entry(org, rid, attempt, settlement, final, account)
        return Entry(org, rid, attempt, settlement, final, account, stray, chosen=False)
