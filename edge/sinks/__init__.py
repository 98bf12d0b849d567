"""Where events go. One file per sink; each fails by itself, without stopping detection or the other sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serkit.edge.events import Event

if TYPE_CHECKING:
    from serkit.edge.listener import Listener


class Sink:
    """Somewhere events go.

    `send` returns at once and never raises: what cannot be delivered now is kept in a bounded queue or counted as
    lost, and said by `notice`. Settings that make no sense, a missing extra or an address in use raise in `start`.

    Attributes:
        name: For notices, such as ``mqtt``.
    """

    name = "sink"

    def start(self, listener: Listener) -> None:
        """Called once, before the first event, with what may be read (`Listener.health`) and done (`Listener.mute`)."""

    def send(self, event: Event) -> None:
        """Take one event; called from the listening thread."""
        raise NotImplementedError

    def notice(self) -> str | None:
        """What went wrong or right since the last call, such as a lost connection; None if nothing did."""
        return None

    def close(self) -> None:
        """Deliver what can be delivered within about two seconds, and let go; a second call does nothing."""
