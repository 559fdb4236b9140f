"""Making a dataset of folders of adapters."""
