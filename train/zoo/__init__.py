"""One file per system; `SYSTEMS` maps a recipe's ``system`` to what builds (and, where not by descent, fits) it.

Every builder takes ``(n_frames, n_features, n_labels, twin=False, **options)`` and returns a Keras model from
normalised log-mel windows ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``. ``twin=True`` builds what
is converted to TFLite, with the same weights (but for axes of one) and without what only training needs (see
`serkit.convert.lstm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serkit.train.zoo import (
    causal_cnn_bilstm,
    causal_tdnn,
    causal_tdnn_bilstm,
    cnn,
    cnn_bilstm,
    densenet_lstm,
    ensemble,
    image_cnn,
    light_sernet,
    lstm,
    mfcc_lstm,
    multiscale_lstm,
    spectrogram_cnn,
    svm,
)


@dataclass(frozen=True)
class System:
    """How one system is made.

    Attributes:
        build: The builder.
        fit: Finds the weights of a model that is not trained by gradient descent; see `serkit.train.zoo.svm.fit`.
        encoder: What builds its part ``encode``, where systems share one: these may start from each other, and its
            options are theirs.
        scatter: Whether it is a discriminant analysis, to which corpora can lend their scatter.
    """

    build: Callable[..., Any]
    fit: Callable[..., dict[str, Any]] | None = None
    encoder: Callable[..., Any] | None = None
    scatter: bool = False


SYSTEMS: dict[str, System] = {
    "causal-cnn-bilstm": System(causal_cnn_bilstm.build),
    "causal-tdnn": System(causal_tdnn.build, causal_tdnn.fit, causal_tdnn.encoder, scatter=True),
    "causal-tdnn-bilstm": System(causal_tdnn_bilstm.build, encoder=causal_tdnn.encoder),
    "r1-cnn-bilstm": System(cnn_bilstm.build),
    "cnn": System(cnn.build),
    "lstm": System(lstm.build),
    "svm": System(svm.build, svm.fit),
    "r2-cnn": System(spectrogram_cnn.build),
    "r3-multiscale-lstm": System(multiscale_lstm.build),
    "r3-mfcc-lstm": System(mfcc_lstm.build),
    "r3-densenet-lstm": System(densenet_lstm.build),
    "r4-image-cnn": System(image_cnn.build),
    "light-sernet": System(light_sernet.build),
    "ensemble": System(ensemble.build),
}


def is_encoded(model: Any) -> bool:
    """Whether a network is heard hop by hop: in the parts ``encode`` and ``classify``."""
    return "encode" in {layer.name for layer in model.layers}
