"""From a data set to batches, in an order that no cluster can change."""
