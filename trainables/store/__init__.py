"""Files of a run directory that trials write: records, states and events, by trial key."""
