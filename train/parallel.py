"""One run over all accelerators of a machine: every batch is shared out, the weights are the same everywhere."""

from __future__ import annotations

import math

from serkit.edge.errors import SettingsError


def use_all_devices() -> int:
    """Share every batch over all devices Keras sees from here on (`keras.distribution.DataParallel`).

    Returns:
        How many there are.

    Raises:
        SettingsError: The back end is not JAX, for which alone Keras does this well.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise SettingsError(
            f"--data-parallel needs Keras' JAX back end, found {keras.backend.backend()}; add `--backend jax`"
        )
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return n_devices()


def n_devices() -> int:
    """Devices that share a batch; 1 unless `use_all_devices` was called. Batches need a multiple of it."""
    import keras

    distribution = keras.distribution.distribution()
    return 1 if distribution is None else math.prod(distribution.device_mesh.shape)
