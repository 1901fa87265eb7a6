"""DiT's loss for the predicted noise and the learned variance of a step.

At step k = 0..999, t = (k + 1) / 1000 and s = k / 1000 (Peebles & Xie 2023;
Nichol & Dhariwal 2021). The term vb has no gradient with respect to the
predicted mean:

  loss = mean (noise prediction - noise)^2 + vb
  vb   = KL(q(x_s | x_t, x0) || p(x_s | x_t)) / log 2    k > 0
         -log p(x0 | x_t) / log 2  (256 levels)          k = 0

where vb is a mean over dimensions. The normal distributions q and p have the
DDPM means of `sample.ddpm` at x0 and at the predicted x0. Their log variances
are

  q: log small     p: f log beta + (1 - f) log small,   f = (variance + 1) / 2

where beta and small are from `sample.ddpm.variances`, and the network predicts
`variance`. At step 0, small would be 0, so the value of step 1 replaces it.
"""

import jax
import jax.numpy as jnp

from dit.path import STEPS, VariancePreserving, expand
from sample.ddpm import posterior_mean, variances


def variance_losses(
  path: VariancePreserving,
  x0: jax.Array,
  x: jax.Array,
  noise: jax.Array,
  variance: jax.Array,
  t: jax.Array,
) -> jax.Array:
  """Returns the term vb per image, (B,) float32, in bits per dimension.

  Args:
    path: Path of the discrete steps.
    x0: (B, H, W, C) latents.
    x: (B, H, W, C) noisy latents at t.
    noise: (B, H, W, C) predicted noise.
    variance: (B, H, W, C) predicted variance: -1 for `small`, 1 for `beta`.
    t: (B,) times (k + 1) / 1000.
  """
  t = expand(t, x)
  s = jnp.maximum(t - 1 / STEPS, 0)
  is_first = t < 1.5 / STEPS
  s = jnp.where(is_first, 0, s)
  beta, small = variances(path, t, s)
  limit = variances(path, jnp.float32(2 / STEPS), jnp.float32(1 / STEPS))[1]
  log_small = jnp.log(jnp.where(is_first, limit, small))
  f = (variance + 1) / 2
  log_variance = f * jnp.log(beta) + (1 - f) * log_small

  noise = jax.lax.stop_gradient(noise)
  estimate = (x - path.sigma(t) * noise) / path.alpha(t)
  mean = posterior_mean(path, estimate, x, t, s)
  gap = posterior_mean(path, x0, x, t, s) - mean
  kl = 0.5 * (
    log_variance
    - log_small
    - 1
    + jnp.exp(log_small - log_variance)
    + jnp.square(gap) * jnp.exp(-log_variance)
  )
  bits = jnp.where(is_first, -_log_probability(x0, mean, log_variance), kl)
  return bits.mean((1, 2, 3)) / jnp.log(2)


def _log_probability(
  x: jax.Array, mean: jax.Array, log_variance: jax.Array
) -> jax.Array:
  """Log-likelihood of x in 256 levels from -1 to 1, as in DiT's code."""
  scale = jnp.exp(-log_variance / 2)
  low = _cdf(scale * (x - mean - 1 / 255))
  high = _cdf(scale * (x - mean + 1 / 255))
  probability = jnp.where(
    x < -0.999, high, jnp.where(x > 0.999, 1 - low, high - low)
  )
  return jnp.log(jnp.maximum(probability, 1e-12))


def _cdf(x: jax.Array) -> jax.Array:
  """DiT's approximation of the standard normal CDF by a tanh."""
  return (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
