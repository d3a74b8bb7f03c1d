"""The stream: from raw text to shards of pre-tokenized blocks, and from shards to typed batches."""
