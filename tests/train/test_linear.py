"""A linear classifier of scikit-learn in a network answers as it does by itself."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from serkit.edge.window import softmax
from serkit.train.discriminant import analysis
from serkit.train.zoo.linear import fit_linear, linear


@pytest.mark.parametrize("present", [[0, 1, 3], [1, 2], [0, 1, 3, 4, 6]])  # 4 and 6 are classes, but no answers
def test_it_answers_as_by_itself_and_never_what_nobody_showed(present: list[int], rng: np.random.Generator) -> None:
    inputs = keras.Input((5,))
    network = keras.Model(inputs, linear(inputs, 4))
    centres = rng.normal(size=(7, 5)) * 2
    truth = np.repeat(present, 200)
    x = (centres[truth] + rng.normal(size=(len(truth), 5))).astype(np.float32)
    batches = [(x[i::3], truth[i::3], np.repeat("anna", len(x[i::3]))) for i in range(3)]
    scores = iter((0.4, 0.9, 0.9))

    def analyses(functionals: Any, classes: Any, voices: Any) -> Any:
        assert set(voices) == {"anna"}
        for shrinkage in (0.1, 0.3, 0.5):
            yield {"shrinkage": shrinkage}, analysis(shrinkage, functionals, classes)

    chosen = fit_linear(keras.Model(inputs, inputs), network, batches, analyses, lambda: next(scores))
    assert chosen == {"score": 0.9, "shrinkage": 0.3}
    # Some far away, where the clip answers for them, and some at the middle of everybody.
    others = np.concatenate([x[::7], 100 * x[:5], np.full((1, 5), x.mean()), np.zeros((1, 5))]).astype(np.float32)
    logits = np.asarray(network(others))
    answers = [k for k in present if k < 4]
    assert set(logits.argmax(axis=1)) <= set(answers)
    assert softmax(logits)[:, [k for k in range(4) if k not in present]].max() < 1e-3
    z = np.clip((others - x.mean(axis=0)) / x.std(axis=0) / 4, -1, 1)
    alone = analysis(0.3, np.clip((x - x.mean(axis=0)) / x.std(axis=0) / 4, -1, 1), truth)
    said = alone.predict_proba(z)[:, : len(answers)]
    assert np.allclose(softmax(logits)[:, answers], said / said.sum(axis=1, keepdims=True), atol=2e-3)


def test_weights_that_cancel_out_survive_conversion(rng: np.random.Generator) -> None:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    x = np.tile(rng.normal(size=(50, 192)), 2).astype(np.float32)  # each feature twice
    large, small = (size * rng.normal(size=(192, 8)) for size in (10, 0.1))
    weights = [np.zeros(384), np.ones(384), np.concatenate([large, small - large]), np.zeros(8)]
    errors = {}
    for twin in (False, True):
        inputs = keras.Input((384,))
        network = keras.Model(inputs, linear(inputs, 8, twin=twin))
        network.set_weights(weights)
        module = tf.Module()
        module.answer = tf.function(network, input_signature=[tf.TensorSpec((1, 384))])
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.answer.get_concrete_function()], module)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        engine = Interpreter(model_content=converter.convert())
        engine.allocate_tensors()
        (given,), (answered,) = engine.get_input_details(), engine.get_output_details()
        said = []
        for row in x:
            engine.set_tensor(given["index"], row[None])
            engine.invoke()
            said.append(engine.get_tensor(answered["index"])[0])
        expected = np.asarray(network(x))
        errors[twin] = np.abs(said - expected).max() / expected.std()
    assert errors[True] < 1e-3
    assert errors[False] > 0.1  # else there would be no need for it
