"""What systemd is told, without its library: states by sd_notify(3), lines for the journal with a level."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6


def notify(*assignments: str) -> None:
    """Send states such as ``READY=1`` to the socket that ``$NOTIFY_SOCKET`` names; without it, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(" ".join(a.splitlines()) for a in assignments).encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(message, address.replace("@", "\0", 1) if address.startswith("@") else address)


def say(message: str, level: int) -> None:
    """One line on stderr; where that is the journal, with its level in front, as sd-daemon(3) has it."""
    prefix = f"<{level}>" if _in_journal() else "serkit: "
    with suppress(OSError, ValueError):  # nobody listens any more: no reason to stop
        print(f"{prefix}{' '.join(message.split())}", file=sys.stderr, flush=True)


def _in_journal() -> bool:
    """Whether stderr is the very stream that ``$JOURNAL_STREAM`` names: it may have been redirected since."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
