"""The parts of a report's page. Every figure and table says to which of them it belongs."""

from __future__ import annotations

from enum import Enum


class Section(Enum):
    """A heading of the page, in the order of the page; those with nothing in them are left out."""

    RUNS = "Runs"
    SIZE = "Size of the dataset"
    RANKING = "Ranking"
    CONTRASTS = "What it takes"
    ABLATION = "Ablation"
    FAMILIES = "Where it lives"
    MAP = "Map of the adapters"
    OVERFITTING = "Overfitting"
    LEARNING_CURVES = "Learning curves"
    PRECISION_RECALL = "Precision and recall"
    CALIBRATION = "Calibration"
    CONFUSION = "Confusion"
    CLASSES = "Classes"
    IMPORTANCE = "Importance"
    COST = "Width and time"
    RETAINED = "Information retained"
    STABILITY = "Stability"
    MISSING = "Missing"
