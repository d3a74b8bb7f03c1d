"""The convention of torch.autocast: products take its dtype, statistics and losses stay in float32."""

import torch
from torch import Tensor


def as_autocast_casts(tensor: Tensor) -> Tensor:
    """The tensor as autocast would hand it to `F.linear`: in its dtype where it is on, float64 excepted."""
    device_type = tensor.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return tensor
    castable = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(torch.get_autocast_dtype(device_type)) if castable else tensor
