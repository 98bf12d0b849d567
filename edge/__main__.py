"""``python -m serkit.edge`` is `serkit`."""

from serkit.edge.cli import main

main(prog_name="serkit")
