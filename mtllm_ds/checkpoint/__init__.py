"""What survives: checkpoints by parameter name, and exports."""
