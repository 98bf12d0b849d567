"""From a trained Keras model to one signed TFLite bundle."""
