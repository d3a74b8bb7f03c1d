"""What the fused losses share: checks, products with a head, the loop over chunks of rows, the operator, device helpers."""
