"""Carrying out what remains: Ray, the feature stage, Tune."""
