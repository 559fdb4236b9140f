"""The Tune trainable: it starts a fit, scores it, and measures importance."""
