"""Sub-commands of the command line that ask the store: keys, usage, budgets, report, export."""

from __future__ import annotations

import click


def register(main: click.Group) -> None:
    """Add the sub-commands. What they need is imported when they run."""
    from extproc.commands.budgets import budgets
    from extproc.commands.export import export
    from extproc.commands.keys import keys
    from extproc.commands.publish import publish, rebuild
    from extproc.commands.regret import regret
    from extproc.commands.report import report
    from extproc.commands.spool import spool
    from extproc.commands.usage import usage

    budgets.add_command(publish)
    budgets.add_command(rebuild)
    budgets.add_command(spool)
    for command in (keys, usage, budgets, report, regret, export):
        main.add_command(command)
