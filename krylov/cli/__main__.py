"""``python -m krylov.cli``: the command line without its script on the path."""

from krylov.cli import main

main(prog_name="krylov")
