"""The forms an LSTM can take in a TFLite graph, and the twin of a trained model that has one of them.

Which to ship, from benchmarks/results/matrix.json (`serkit.benchmarks.choices` says for each system, in the README
beside it; here r1-ship, 1.8 M parameters, ``dynamic``, in LiteRT, times beside unrolled float32):

========  ============  ============  =====  =======  ========  =================================================
form      bytes         operators     time   load     memory    beside
========  ============  ============  =====  =======  ========  =================================================
unrolled  1,993,688     970           0.35   25 ms    39 MB     the only form for full int8 (0.52, 38 MB)
fused     1,814,816     33            0.33   2 ms     12 MB     1.0 in tflite-runtime; its state must be reset
while     1,855,976     154           0.31   4 ms     13 MB     1.6 in tflite-runtime; no state
========  ============  ============  =====  =======  ========  =================================================

The matrix is older than `_written_out`, benchmarks/results/matrix-serkit.json newer: the default model unrolled has 342
operators instead of 456 and takes 0.12 ms a window; fused 0.50, while 0.26 (BiLSTM 96 x 15 steps).

- *unrolled* for LSTMs of some ten steps, and where int8 is a must: fused int8 is slower than float32 (1.09), loops in
  int8 crash the converter. The default here.
- *fused, dynamic* for R1 and other large LSTMs: the answers of the other forms, the smallest file, a third of the
  memory (BiLSTM 96 x 32 steps where caches are cold: 0.31, unrolled 0.65, while 0.60). The engine resets its state
  before every window; a program of one's own that forgets to gets other answers.
- *while, dynamic* where an LSTM reads one or two values per step (r3-lstm, r3-densenet: the fused operator's weights
  stay floats then, 1,108,696 bytes against 324,824), or where nothing may keep state. Not in float16: 262 MB.
- For tflite-runtime, float16 fused (0.59): its 8-bit kernels are slower than those for floats.
- ``int16x8`` never pays: 1.1 to 47 times float32's time, no LSTM operator for it, and it breaks r3-lstm (max |dp| 1).
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from serkit.train.build import build_system
from serkit.train.recipe import Recipe

#: Form to what it means.
LSTM_FORMS = {
    "unrolled": "every step written out: ten operators or so per step, no state, converts to every format",
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
    import keras

    model = build_system(recipe, twin=True)
    model.set_weights([w.reshape(v.shape) for w, v in zip(trained.get_weights(), model.weights, strict=True)])
    if lstm in _LOOPS:
        for layer in _lstm_layers(model):
            layer.inner_loop = partial(_LOOPS[lstm], layer)
    if lstm == "unrolled":
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Bidirectional):
                layer.return_sequences = False  # nothing to turn around: steps come in order of time
    return model


def unclipped(graph: bytes) -> bytes:
    """A flatbuffer whose LSTM operators let cells grow as Keras does; the converter has them clipped at 10, which the
    `lstm` system misses by 0.01 of probability."""
    from ai_edge_litert import schema_py_generated as schema

    changed = bytearray(graph)
    model = schema.Model.GetRootAs(changed, 0)
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(subgraph.Operators, range(subgraph.OperatorsLength())):
            if operator.BuiltinOptionsType() == schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions:
                options = operator.BuiltinOptions()
                if offset := options.Offset(6):  # of cell_clip, a float; without one it is 0, no clip
                    changed[options.Pos + offset : options.Pos + offset + 4] = bytes(4)
    return bytes(changed)


def _lstm_layers(model: Any) -> list[Any]:
    import keras

    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.LSTM)]


def _written_out(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """`keras.layers.LSTM.inner_loop` for a batch of one, with fewer operators than ``unroll=True`` has: all
    steps' inputs are multiplied at once, one sigmoid serves three gates, and the first step starts from zeros.

    The steps of a backward layer come in order of time, where Keras has them last first and turns them around in
    `keras.layers.Bidirectional`. That operator, REVERSE_V2, breaks int8: the converter may give its output another
    scale than its input, which the kernel does not heed, and answers are those of another model.
    """
    import tensorflow as tf

    n, cell = layer.cell.units, layer.cell

    def gates_last(weights: Any) -> Any:  # Keras has input, forget, cell, output; here the cell's comes last
        i, f, g, o = tf.split(tf.convert_to_tensor(weights.value), 4, axis=-1)
        return tf.concat([i, f, o, g], axis=-1)

    recurrent = gates_last(cell.recurrent_kernel)
    steps, width = sequences.shape[1:]
    projected = tf.reshape(sequences, (steps, width)) @ gates_last(cell.kernel) + gates_last(cell.bias)
    inputs = tf.split(projected, steps, axis=0)
    outputs, h, c = [], None, None
    for z in reversed(inputs) if layer.go_backwards else inputs:
        if h is not None:
            z = z + h @ recurrent
        gates, g = tf.split(z, [3 * n, n], axis=1)
        i, f, o = tf.split(tf.sigmoid(gates), 3, axis=1)
        g = i * tf.tanh(g)
        c = g if c is None else f * c + g
        h = o * tf.tanh(c)
        outputs.append(h)
    return h, tf.stack(outputs[::-1] if layer.go_backwards else outputs, axis=1), [h, c]


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


_LOOPS = {"unrolled": _written_out, "fused": _marked_loop}
