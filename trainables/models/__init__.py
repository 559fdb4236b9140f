"""Models for new adapters: building, writing, reading, calibration and novelty."""
