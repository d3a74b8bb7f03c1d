"""From the MT encoder's states to the LLM's input embeddings."""

from __future__ import annotations

import torch
from torch import nn

from mtllm_ds.config.sections import ConnectorSettings


def build_connector(
    settings: ConnectorSettings, encoder_size: int, llm_size: int, *, seed: int, dtype: torch.dtype
) -> nn.Module:
    """A connector with the framework's default start, drawn from `seed` alone (the same on every rank)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.type == "linear":
            module: nn.Module = nn.Linear(encoder_size, llm_size)
        else:
            middle = settings.hidden_size or llm_size
            module = nn.Sequential(nn.Linear(encoder_size, middle), nn.GELU(), nn.Linear(middle, llm_size))
    return module.to(dtype)


class LeastSquares:
    """Streaming ridge regression y ~ x W^T + b in float64, from sums that fit in memory at any number of rows."""

    def __init__(self, x_size: int, y_size: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.x_sum = torch.zeros(x_size, dtype=torch.float64)
        self.y_sum = torch.zeros(y_size, dtype=torch.float64)
        self.xx = torch.zeros(x_size, x_size, dtype=torch.float64)
        self.xy = torch.zeros(x_size, y_size, dtype=torch.float64)
        self.y_square = torch.zeros((), dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take up rows x (n, x_size) and y (n, y_size)."""
        x, y = x.double().cpu(), y.double().cpu()
        self.count += x.shape[0]
        self.x_sum += x.sum(0)
        self.y_sum += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.y_square += y.square().sum()

    def tensors(self) -> list[torch.Tensor]:
        """The sums, to be added up over ranks."""
        return [self.count, self.x_sum, self.y_sum, self.xx, self.xy, self.y_square]

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (y_size, x_size) and bias (y_size,); `ridge` is relative to the mean variance of x."""
        x_mean, y_mean = self.x_sum / self.count, self.y_sum / self.count
        covariance = self._covariance()
        cross = self.xy / self.count - torch.outer(x_mean, y_mean)
        penalty = ridge * covariance.diagonal().mean() + 1e-12
        weight = torch.linalg.solve(covariance + penalty * torch.eye(len(x_mean), dtype=torch.float64), cross).T
        return weight, y_mean - weight @ x_mean

    def match(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`weight` (y_size, x_size) scaled, and a bias, so that its outputs have the mean and variance of y."""
        x_mean, y_mean = self.x_sum / self.count, self.y_sum / self.count
        variance = self.y_square / self.count - y_mean.square().sum()
        weight = weight.double()
        output_variance = ((weight @ self._covariance()) * weight).sum()
        weight = weight * (variance / output_variance).sqrt()
        return weight, y_mean - weight @ x_mean

    def _covariance(self) -> torch.Tensor:
        x_mean = self.x_sum / self.count
        return self.xx / self.count - torch.outer(x_mean, x_mean)
