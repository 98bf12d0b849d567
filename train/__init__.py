"""From corpora on disk to a trained Keras model: labels, splits, features, augmentation, zoo, fit, metrics."""
