"""Ray sessions: starting or joining one, its capacity, and noticing when Ray dies."""
