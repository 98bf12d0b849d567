"""serkit: train, shrink and run speech-emotion models on devices without a network."""

__version__ = "0.1.0"
