"""Numbers that the PyTorch and the Triton code must agree on."""

IGNORED_LABEL = -100
LOWEST = -1e30  # stands for a logit of -inf: differences stay finite, exp gives exactly 0
ONE_SIDED = 1e29  # the sides' logits differ by more where one of them stands for -inf
FLOAT16_LARGEST = 2.0**14  # what the largest entries of q become in float16: clear of its subnormals, and of its end
LARGEST_EXPONENT = 60.0  # log p_t - log p_s beyond this leaves nothing of p_s
