"""The command line: ``krylov solve | train | plot | demo | bench | info``."""

from __future__ import annotations

from typing import Any

import click

# Renamed, so that krylov.cli.solve and the others remain the modules.
from krylov.cli.bench import bench as _bench
from krylov.cli.demo import demo as _demo
from krylov.cli.info import info as _info
from krylov.cli.plot import plot as _plot
from krylov.cli.solve import solve as _solve
from krylov.cli.train import train as _train

__all__ = ["main"]

#: What a shell expects of a program that Ctrl-C ended (128 + SIGINT).
_INTERRUPTED = 130


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="krylov")
def main() -> None:
    """Krylov solvers: solve sparse linear systems, train networks by second-order steps, see both compared."""


for _command in (_solve, _train, _plot, _demo, _info, _bench):
    main.add_command(_command)
