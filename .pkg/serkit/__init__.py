"""serkit: train, shrink and run speech-emotion models on devices without a network.

    with serkit.listen("drive.wav", preset="driver") as events:
        for event in events:
            print(event.time_s, event.answer)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serkit.edge.listener import listen as listen

__version__ = "0.1.0"
__all__ = ["__version__", "listen"]


def __getattr__(name: str) -> Any:
    """Load what is public only when it is used: ``import serkit`` costs nothing."""
    if name == "listen":
        from serkit.edge.listener import listen

        return listen
    raise AttributeError(f"module 'serkit' has no attribute {name!r}")
