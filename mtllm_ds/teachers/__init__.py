"""Who gives targets."""
