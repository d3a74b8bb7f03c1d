"""Device helpers shared by the kernels. Logits are in natural units unless a name ends in 2 (base 2)."""

import triton
import triton.language as tl

from mtllm_kernels.common import constants

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(constants.LOWEST)
LARGEST_EXPONENT = tl.constexpr(constants.LARGEST_EXPONENT)
ONE_SIDED = tl.constexpr(constants.ONE_SIDED)
FLOAT16_LARGEST = tl.constexpr(constants.FLOAT16_LARGEST)


@triton.jit
def expm1(x):
    """exp(x) - 1 without cancellation near 0 (relative error below 1e-5, where the series ends 4e-8)."""
    series = x * (1.0 + x * (0.5 + x * (1.0 / 6.0)))
    return tl.where(tl.abs(x) < 1e-2, series, tl.exp(x) - 1.0)


@triton.jit
def log1p_series(x):
    """log(1 + x) for |x| < 1e-2."""
    return x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * 0.25)))


@triton.jit
def at_least(x, lowest):
    """The larger of the two; unlike tl.maximum it keeps NaN."""
    return tl.where(x < lowest, lowest, x)


@triton.jit
def at_most(x, highest):
    """The smaller of the two; unlike tl.minimum it keeps NaN."""
    return tl.where(x > highest, highest, x)


@triton.jit
def tempered(z, inverse_temperature):
    """z / T; LOWEST stays LOWEST, whatever T."""
    return tl.where(z <= 0.5 * LOWEST, LOWEST, z * inverse_temperature)


@triton.jit
def tanh(x):
    """Hyperbolic tangent with small relative error near 0."""
    e = expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0, e, -e) / (2.0 + e)


@triton.jit
def to_bfloat16(x, INTERPRETED: tl.constexpr):
    """x to the nearest bfloat16; the interpreter's own cast would truncate. x must be finite or NaN."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        x = tl.where(x == x, ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True), x)
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
def log_mixture(x, beta, rest):
    """For jsd, with rest = 1 - beta: u = -log(rest + beta e^x), and u less its limit -log(rest); see linear_kl/chunked.py."""
    x = at_most(x, LARGEST_EXPONENT)
    small, e = beta * expm1(x), beta * tl.exp(x)
    log_mixture, ratio = tl.log(rest + e), e / rest
    near = -tl.where(tl.abs(small) < 1e-2, log1p_series(small), log_mixture)
    far = -tl.where(ratio < 1e-2, log1p_series(ratio), log_mixture - tl.log(rest))
    return near, far


@triton.jit
def statistics_terms(p_s, x, beta, rest, KIND: tl.constexpr):
    """One column's share of the statistics of a row that its gradient needs: -sum p_s x for reverse_kl, sum p_s u and
    sum p_s u' for jsd."""
    if KIND == "jsd":
        near, far = log_mixture(x, beta, rest)
        return p_s * near, p_s * far
    else:
        return -p_s * x, tl.zeros_like(p_s)


@triton.jit
def divergence_terms(p_s, p_t, x, mean, far_mean, beta, rest, KIND: tl.constexpr):
    """One column's share of the loss, and q, the gradient; see linear_kl/chunked.py.

    x = log p_t - log p_s. `mean` and `far_mean` are the sums of `statistics_terms` over the whole row.
    """
    if KIND == "forward_kl":
        q = p_s - p_t
        loss = tl.where(x > ONE_SIDED, float("inf"), p_t * x + q)
    elif KIND == "reverse_kl":
        loss = tl.where(x < -ONE_SIDED, float("inf"), p_t - p_s - p_s * x)
        q = -p_s * (x + mean)
    else:
        near, far = log_mixture(x, beta, rest)
        loss = beta * p_t * (at_most(x, LARGEST_EXPONENT) + near) + rest * p_s * near
        saturated = mean > -0.5 * tl.log(rest)
        q = rest * p_s * tl.where(saturated, far - far_mean, near - mean)
    return loss, q


@triton.jit
def float16_unit(mean, scale, beta, rest, KIND: tl.constexpr):
    """What a row's q, times `scale`, has to be divided by for float16: a bound of |q| becomes FLOAT16_LARGEST.

    For reverse_kl p_s |x| is at most 1 + mean, and for jsd p_s |u| at most beta (p_s + p_t) and 1 - log(rest), since p_s x
    never exceeds p_t.
    """
    if KIND == "reverse_kl":
        bound = 2.0 + tl.abs(mean)
    elif KIND == "jsd":
        bound = tl.minimum(4.0 * beta, rest * (2.0 - 2.0 * tl.log(rest)))
    else:
        bound = 1.0
    return scale * bound / FLOAT16_LARGEST
