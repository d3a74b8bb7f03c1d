"""From raw text to a finished data set."""
