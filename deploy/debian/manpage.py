"""serkit(1), from what the commands say about themselves: `python manpage.py > serkit.1`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

import click

_FILES = {
    "/etc/serkit/serkit.toml": "Configuration of the service; every option is explained in it.",
    "/var/lib/serkit": "What the service keeps: installed models.",
    "/opt/serkit": "The program and the libraries it uses.",
}
_EXIT = {"0": "All went well.", "1": "An error, which is on standard error in one line.", "2": "A wrong command line."}


def main() -> None:
    """Print the page."""
    cli = import_module("serkit.edge.cli")
    elsewhere: dict[str, str] = vars(cli)["_ELSEWHERE"]
    context = click.Context(cli.main, info_name="serkit")
    # training and benchmarks need more than a device has
    names = [n for n in cli.main.list_commands(context) if elsewhere.get(n, "serkit.edge").startswith("serkit.edge")]
    print(f'.TH SERKIT 1 "" "serkit {import_module("serkit").__version__}" "User Commands"')
    print(".SH NAME\nserkit \\- hear how somebody feels, on a device without a network")
    print(".SH SYNOPSIS\n.B serkit\n.I command\n[\\fIoption\\fR ...] [\\fIargument\\fR ...]")
    print(".SH DESCRIPTION", *_text(cli.main.help), ".SH COMMANDS", sep="\n")
    for name in sorted(names):
        print(*_command(cli.main.get_command(context, name), name, context), sep="\n")
    for title, entries in {"FILES": _FILES, "EXIT STATUS": _EXIT}.items():
        print(f".SH {title}")
        for term, meaning in entries.items():
            print(f".TP\n.B {_plain(term)}\n{_plain(meaning)}")
    print(".SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1),\n.BR arecord (1)")


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name)
    yield f".SS {_plain(' '.join([context.command_path, *command.collect_usage_pieces(context)]))}"
    yield from _text(command.help)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and "--help" not in record[0]:
            yield f".TP\n.B {_plain(record[0])}\n{_plain(record[1])}"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _command(found, child, context)


def _text(help_text: str | None) -> Iterator[str]:
    """Paragraphs; one that starts with ``\\b`` is kept as it is."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text or "")):
        kept = paragraph.removeprefix("\b\n")
        if kept == paragraph:
            yield f".PP\n{_plain(' '.join(paragraph.split()))}"
        else:
            yield f".PP\n.nf\n{_plain(kept)}\n.fi"


def _plain(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
