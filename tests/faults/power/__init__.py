"""Power cuts and failing disks: a file system that records, a model of what a cut leaves, and the
sweeps that go through both."""
