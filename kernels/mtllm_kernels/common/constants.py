"""Numbers that the PyTorch and the Triton code must agree on."""

IGNORED_LABEL = -100
LOWEST = -1e30  # stands for a logit of -inf: differences stay finite, exp gives exactly 0
INFINITE_LOSS = 1e20  # a divergence beyond this met a column at -inf on one side only
LARGEST_EXPONENT = 60.0  # log p_t - log p_s beyond this leaves nothing of p_s
