"""Models to keep: which, and what they say of new adapters."""
