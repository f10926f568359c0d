"""The command line's own help: what each command does fits its line in the list on 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from extproc.cli import main


def groups(name: str, command: click.Command) -> Iterator[tuple[str, click.Group]]:
    """A group and all groups below it, by the words that call them."""
    if isinstance(command, click.Group):
        yield name, command
        for below, inner in command.commands.items():
            yield from groups(f"{name} {below}", inner)


@pytest.mark.parametrize(("name", "group"), list(groups("extproc", main)), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_no_line_is_cut(name: str, group: click.Group) -> None:
    """No command's line in the list of its group ends in the middle of its sentence."""
    context = click.Context(group, info_name=name, terminal_width=80)
    listed = group.get_help(context).partition("Commands:\n")[2]
    assert listed
    assert "..." not in listed
