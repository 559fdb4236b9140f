"""The feature stage: batches, shards, a pool of workers, and the cache they fill."""
