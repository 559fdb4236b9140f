"""Arrow files, Hugging Face datasets and object storage, scanned and fingerprinted."""
