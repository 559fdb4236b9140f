"""The stages of a run on Ray: features, projections, trials, models."""
