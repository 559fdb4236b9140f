"""Whole commands: launch a run, describe it beforehand, open it later, export its models."""
