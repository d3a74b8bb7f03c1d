"""Device helpers shared by the kernels. Logits are in natural units unless a name ends in 2 (base 2)."""

import triton
import triton.language as tl

from mtllm_kernels.common import constants

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(constants.LOWEST)
LARGEST_EXPONENT = tl.constexpr(constants.LARGEST_EXPONENT)
INFINITE_LOSS = tl.constexpr(constants.INFINITE_LOSS)


@triton.jit
def expm1(x):
    """exp(x) - 1 without cancellation near 0 (relative error below 1e-5, where the series ends 4e-8)."""
    series = x * (1.0 + x * (0.5 + x * (1.0 / 6.0)))
    return tl.where(tl.abs(x) < 1e-2, series, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x) without cancellation near 0; x > -1."""
    series = x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * 0.25)))
    return tl.where(tl.abs(x) < 1e-2, series, tl.log(1.0 + x))


@triton.jit
def tanh(x):
    """Hyperbolic tangent with small relative error near 0."""
    e = expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0, e, -e) / (2.0 + e)


@triton.jit
def to_bfloat16(x, INTERPRETED: tl.constexpr):
    """x to the nearest bfloat16; the interpreter's own cast would truncate. x must be finite."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def split_bits(x):
    """The upper and lower 16 bits of float32 x, as int16."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits >> 16).to(tl.int16), bits.to(tl.int16)


@triton.jit
def join_bits(upper, lower):
    """float32 from its upper and lower 16 bits."""
    bits = (upper.to(tl.int32) << 16) | (lower.to(tl.int32) & 0xFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def columns_in_half(x, BM: tl.constexpr, BV: tl.constexpr):
    """The left and right halves of a (BM, BV) tile, without leaving registers."""
    return tl.split(tl.permute(tl.reshape(x, (BM, 2, BV // 2)), (0, 2, 1)))


@triton.jit
def divergence_terms(p_s, p_t, x, mean, beta, KIND: tl.constexpr):
    """One column's share of the loss, of the statistic its row needs, and q, the gradient; see linear_kl/chunked.py.

    x = log p_t - log p_s. `mean` is that statistic over the whole row: -sum p_s x for reverse_kl, sum p_s u for jsd.
    """
    if KIND == "forward_kl":
        q = p_s - p_t
        loss = p_t * x + q
        statistic = q
    elif KIND == "reverse_kl":
        statistic = -p_s * x
        loss = p_t - p_s + statistic
        q = -p_s * (x + mean)
    else:
        x = tl.minimum(x, LARGEST_EXPONENT)
        u = -log1p(beta * expm1(x))
        statistic = p_s * u
        loss = beta * p_t * (x + u) + (1.0 - beta) * statistic
        q = (1.0 - beta) * p_s * (u - mean)
    return loss, statistic, q
