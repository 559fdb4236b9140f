"""Files of a run directory that the driver writes: sweep.json, rankings, results."""
