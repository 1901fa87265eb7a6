"""The gradient of DMD, in two named terms, in the space of x0.

With c, u the predictions of the teacher with its label and without, g what its
guidance makes of them, f that of the fake denoiser, all of x0, and alpha the
scale of classifier-free guidance (Decoupled DMD, arXiv 2511.22677, eq. 6, where
n is 1: the unit `conditional` is ours, `guided` that of DMD2),

  DM = (c - f) / n                  CA = (g - c) / n,  with CFG
                                         (alpha - 1) (c - u) / n
  n  = mean over H W C of |c - x|   ('conditional'), or |g - x| ('guided')

The student's output x moves along DM + CA, at rate 1 of

  L = mean (x - sg(x + DM + CA))^2 / 2

At one level and one noise with 'guided', that is DMD2 with a guided teacher
(arXiv 2405.14867), exactly: DM + CA = (g - f) / mean |g - x|. With Internal
Guidance of scale w, CA is (w - 1) (c - c_tap) / n: nobody's published method.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-8
_LATENT = (1, 2, 3)


def push(
  toward: jax.Array, away: jax.Array, teacher: jax.Array, x: jax.Array
) -> jax.Array:
  """A term, (B, H, W, C).

  Args:
    toward: x0 that it moves to.
    away: x0 that it moves from.
    teacher: x0 whose distance from `x` is the unit.
    x: x0 of the student.
  """
  unit = jnp.abs(teacher - x).mean(_LATENT, keepdims=True) + EPSILON
  return (toward - away) / unit


def surrogate(x: jax.Array, direction: jax.Array) -> jax.Array:
  """A loss whose gradient moves x along `direction`, and through nothing else.

  DMD2 sets what is not finite to 0; here it shows in the loss, and the step is
  skipped and counted.
  """
  target = jax.lax.stop_gradient(x + direction)
  return jnp.square(x - target).mean() / 2


def mean_variance(x: jax.Array, mean: float, std: float) -> jax.Array:
  """KL of each latent's Gaussian moments from fixed ones (eq. 7)."""
  variance = x.var(_LATENT)
  ratio = variance / std**2
  distance = jnp.square(x.mean(_LATENT) - mean) / std**2
  return (ratio + distance - 1 - jnp.log(ratio + EPSILON)).mean() / 2


def rms(x: jax.Array) -> jax.Array:
  """Root of the mean square."""
  return jnp.sqrt(jnp.square(x).mean())


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over images of the cosine of the angle between them."""
  norms = jnp.sqrt((a * a).sum(_LATENT) * (b * b).sum(_LATENT))
  return ((a * b).sum(_LATENT) / (norms + EPSILON)).mean()
