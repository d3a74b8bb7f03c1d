"""Who answers: models and baselines, asked on any number of ranks; their predictions."""
