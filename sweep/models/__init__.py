"""Choose models of a run, and apply them to new adapters."""
