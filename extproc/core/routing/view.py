"""What routing may know besides the request itself: one per worker and configuration, the same for all its streams."""

from __future__ import annotations

from extproc.config import RoutingConfig
from extproc.config.learning import LearningConfig
from extproc.core.routing.aims import Aim, ByDollars, aim_of
from extproc.core.routing.busy import Busy
from extproc.core.routing.complexity import Scorer, score
from extproc.core.routing.habits import Habits
from extproc.core.routing.health import HealthBook
from extproc.core.routing.learning import PER_KEY, Learned
from extproc.core.routing.objective import Worth
from extproc.core.routing.pace import Pace
from extproc.core.routing.rules import compile_rules

MOST_ORGS = 1_000
"""Orgs whose aims are told apart; further ones share one."""
READS = 20
"""Texts a second that a worker reads only for what clients may say of the answers: some 2 ms of its time."""


class Knowledge:
    """What a worker has seen and was told by the others. It outlives configurations."""

    def __init__(self, learning: LearningConfig | None = None, workers: int = 1) -> None:
        """`workers`: how many there are: what one key can teach in a day is split among them."""
        self.health, self.busy, self.habits = HealthBook(), Busy(), Habits()
        self.left: dict[tuple[str, str, str], float] = {}
        """What is left of the tightest dollar budget, 0 to 1, by org, team and key, as last granted."""
        self._learning, self._workers = learning or LearningConfig(enabled=False), workers
        self._learned: dict[str, Learned] = {}
        self._second = self._reads = 0

    def may_read(self, now: int) -> bool:
        """Whether one more text may be read to learn from its client's word alone. `now`: ms since the epoch."""
        if self._second != (second := now // 1000):
            self._second, self._reads = second, 0
        self._reads += 1
        return self._learning.enabled and self._reads <= READS

    def learned(self, org: str) -> Learned:
        """What the org's own traffic taught."""
        if org not in self._learned and len(self._learned) >= MOST_ORGS:
            org = ""
        if org not in self._learned:
            self._learned[org] = Learned(
                enabled=self._learning.enabled, half_life=self._learning.half_life,
                prior_weight=self._learning.prior_weight, per_key=max(1, PER_KEY // self._workers))
        return self._learned[org]

    def orgs(self) -> list[str]:
        """The orgs of which something was learnt, or asked."""
        return list(self._learned)

    def configure(self, learning: LearningConfig) -> None:
        """Learn as another configuration says; what was learnt stays."""
        self._learning = learning
        for learned in self._learned.values():
            learned.configure(enabled=learning.enabled, half_life=learning.half_life,
                              prior_weight=learning.prior_weight, per_key=max(1, PER_KEY // self._workers))

    def note_left(self, who: tuple[str, str, str], left: float) -> None:
        """Remember what a grant told."""
        if who not in self.left and len(self.left) >= MOST_ORGS:
            self.left.pop(next(iter(self.left)))
        self.left[who] = left


class View:
    """Knowledge, the compiled rules, and an aim for each org as one configuration states it."""

    def __init__(self, routing: RoutingConfig, knowledge: Knowledge | None = None, rate: Scorer = score,
                 explore: float = 0.0) -> None:
        """`rate`: what reads texts; `explore`: the share of new conversations that try the other chain."""
        self.knowledge = knowledge or Knowledge()
        self.rate, self.explore = rate, explore
        self.routing = routing
        self.worth = Worth(routing.smart)
        rules = compile_rules(routing.rules)
        self.binding = tuple(rule for rule in rules if routing.rules[rule.index].binding)
        self.rules = tuple(rule for rule in rules if not routing.rules[rule.index].binding)
        self._aims: dict[str, Aim] = {}

    def aim(self, org: str) -> Aim:
        """The aim that decides this org's requests, with what it remembers of them."""
        if org not in self._aims and len(self._aims) >= MOST_ORGS:
            org = ""
        if org not in self._aims:
            self._aims[org] = aim_of(self.routing.smart)
        return self._aims[org]

    def paces(self) -> dict[str, Pace]:
        """The dollars of the day by org, where the aim is one in dollars."""
        return {org: aim.pace for org, aim in self._aims.items() if isinstance(aim, ByDollars)}
