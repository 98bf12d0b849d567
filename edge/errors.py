"""Every error serkit raises on purpose: what was found, what is needed, what to do next."""

from __future__ import annotations


class SerkitError(Exception):
    """Base of all errors a user can cause or meet; the command line prints it as one line."""


class AudioError(SerkitError, ValueError):
    """A recording or an audio stream cannot be used."""


class ModelError(SerkitError, ValueError):
    """A model file cannot be found, trusted or run."""


class MicrophoneError(SerkitError, RuntimeError):
    """No microphone, or it cannot be opened."""


class VoiceError(SerkitError, ValueError):
    """A voice cannot be enrolled, found or used with a model."""


class BrokerError(SerkitError, ConnectionError):
    """An MQTT broker cannot be reached, or ended the connection."""


class SettingsError(SerkitError, ValueError):
    """A setting, a recipe or a combination of options makes no sense."""


class CorpusError(SerkitError, ValueError):
    """A corpus is missing, incomplete or does not have what was asked of it."""


class MissingExtraError(SerkitError, ImportError):
    """A command needs an optional part of serkit that is not installed."""
