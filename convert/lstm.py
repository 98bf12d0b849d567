"""The forms an LSTM can take in a TFLite graph, and the twin of a trained model that has one of them."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from serkit.train.fit import build_system
from serkit.train.recipe import Recipe

#: Form to what it means.
LSTM_FORMS = {
    "unrolled": "every step written out: 30 operators or so per step and layer, no state, converts to every format",
    "fused": "one operator per layer, which keeps its state from one invoke to the next unless variables are reset",
    "while": "a loop over one step; the converter crashes on it in full int8",
}


def is_recurrent(model: Any) -> bool:
    """Whether the form of an LSTM makes any difference to a Keras model."""
    return bool(_lstm_layers(model))


def twin(recipe: Recipe, trained: Any, lstm: str) -> Any:
    """A model with the weights of ``trained`` that traces into the given form.

    Args:
        recipe: What was trained.
        trained: Its Keras model.
        lstm: Key of `LSTM_FORMS`.
    """
    model = build_system(recipe, unroll=lstm == "unrolled")
    model.set_weights(trained.get_weights())
    if lstm == "fused":
        for layer in _lstm_layers(model):
            layer.inner_loop = partial(_marked_loop, layer)
    return model


def _lstm_layers(model: Any) -> list[Any]:
    import keras

    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.LSTM)]


def _marked_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """`keras.layers.LSTM.inner_loop`, as a function that the converter knows by its attributes and replaces by one
    UNIDIRECTIONAL_SEQUENCE_LSTM; they are what LSTM layers of Keras 2 carry. Two conditions: six arguments that are
    tensors (variables crash it), and a SavedModel (freezing to constants drops the attributes)."""
    import tensorflow as tf

    def loop(x: Any, h: Any, c: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
        outputs = []
        steps = tf.unstack(x, axis=1)
        for step in reversed(steps) if layer.go_backwards else steps:
            i, f, g, o = tf.split(step @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            outputs.append(h)
        return h, tf.stack(outputs, axis=1), h, c, tf.constant(0.0)  # the converter wants a fifth, and ignores it

    attributes = {
        "api_implements": f"lstm_{uuid.uuid4()}",
        "api_preferred_device": "CPU",
        "time_major": False,
        "go_backwards": layer.go_backwards,
    }
    cell = layer.cell
    weights = [tf.convert_to_tensor(w.value) for w in (cell.kernel, cell.recurrent_kernel, cell.bias)]
    marked = tf.function(loop, autograph=False, experimental_attributes=attributes)
    last, outputs, h, c, _ = marked(sequences, *initial_state, *weights)
    return last, outputs, [h, c]
