"""What runs on the device: audio in, log-mel frames, windows, one TFLite model, events out."""
