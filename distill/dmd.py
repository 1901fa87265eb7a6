"""The gradient of DMD with respect to x0, as a sum of two terms.

The teacher's predictions of x0 are c (with label), u (without) and g (guided).
The fake denoiser's prediction is f, and the student's is x. The scale of CFG is
alpha. DM (distribution matching) and CA (CFG augmentation) are the terms of
Decoupled DMD (arXiv 2511.22677, eq. 6), each divided by a normalizer n, which
is 1 in eq. 6. The normalizer `conditional` is ours; `guided` is that of DMD2:

  DM = (c - f) / n                  CA = (g - c) / n
                                       = (alpha - 1) (c - u) / n   (CFG)
  n  = mean over H W C of |c - x|   ('conditional'), or |g - x| ('guided')

The loss L moves the student's output x along DM + CA; sg stops the gradient:

  L = mean (x - sg(x + DM + CA))^2 / 2

If n is 'guided' and both terms share one level and noise, L is the loss of DMD2
with a guided teacher (arXiv 2405.14867): DM + CA = (g - f) / mean |g - x|. With
Internal Guidance of scale w (ours), CA is (w - 1) (c - c_tap) / n, where c_tap
is the tap's prediction of x0.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-8
_LATENT = (1, 2, 3)


def push(
  toward: jax.Array, away: jax.Array, teacher: jax.Array, x: jax.Array
) -> jax.Array:
  """Returns (toward - away) / n, one term of the gradient, (B, H, W, C).

  Args:
    toward: Prediction of x0 that the term moves x toward.
    away: Prediction of x0 that the term moves x away from.
    teacher: Prediction of x0 by the teacher, for n = mean |teacher - x|.
    x: Prediction of x0 by the student.
  """
  unit = jnp.abs(teacher - x).mean(_LATENT, keepdims=True) + EPSILON
  return (toward - away) / unit


def surrogate(x: jax.Array, direction: jax.Array) -> jax.Array:
  """Returns a loss whose gradient moves x along `direction`.

  DMD2 sets nonfinite values to 0. Here, nonfinite values reach the loss, and
  training then skips and counts the step.
  """
  target = jax.lax.stop_gradient(x + direction)
  return jnp.square(x - target).mean() / 2


def mean_variance(x: jax.Array, mean: float, std: float) -> jax.Array:
  """Returns mean KL(N(moments of x) || N(mean, std^2)) (2511.22677, eq. 7)."""
  variance = x.var(_LATENT)
  ratio = variance / std**2
  distance = jnp.square(x.mean(_LATENT) - mean) / std**2
  return (ratio + distance - 1 - jnp.log(ratio + EPSILON)).mean() / 2


def rms(x: jax.Array) -> jax.Array:
  """Returns the root mean square of all values."""
  return jnp.sqrt(jnp.square(x).mean())


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the mean cosine similarity over images."""
  norms = jnp.sqrt((a * a).sum(_LATENT) * (b * b).sum(_LATENT))
  return ((a * b).sum(_LATENT) / (norms + EPSILON)).mean()
