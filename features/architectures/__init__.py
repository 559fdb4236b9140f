"""Model architectures: the names and sizes of their layers, one file for each."""
