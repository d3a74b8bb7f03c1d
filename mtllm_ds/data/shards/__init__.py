"""What lies on disk: blocks, tar shards, manifests, targets, and where they are read from."""
