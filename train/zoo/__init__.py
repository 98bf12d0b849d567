"""One file per system; `SYSTEMS` maps a recipe's ``system`` to the function that builds its Keras model.

Every builder takes ``(n_frames, n_features, n_labels, unroll=False, **options)`` and returns a model from
``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``. ``unroll=True`` writes recurrent layers out step by
step, with the same weights: the form that converts to TFLite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serkit.train.zoo import cnn_bilstm

SYSTEMS: dict[str, Callable[..., Any]] = {"r1-cnn-bilstm": cnn_bilstm.build}
