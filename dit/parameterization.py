"""What networks speak, and how it becomes our velocity at our time.

  velocity   time t            velocity = prediction
  reversed   time 1 - t        velocity = -prediction      (dx/dt of their time)
  noise      time 1000 t - 1   velocity = path.velocity_from_noise(prediction)

`noise` is DiT's: its steps 0..999 of the path 'discrete', on which no smaller
time than that of step 0, t = 1/1000, is known: a smaller t is taken for it.
"""

import jax
import jax.numpy as jnp

from dit.path import STEPS, path_named


def network_time(convention: str, t: jax.Array) -> jax.Array:
  """The time that the network is given at our time t, (B,)."""
  if convention == 'reversed':
    return 1 - t
  if convention == 'noise':
    step = STEPS * _known(t) - 1
    nearest = jnp.round(step)
    # (step + 1) / 1000 has rounding errors; the network knows whole steps.
    return jnp.where(jnp.abs(step - nearest) < 1e-3, nearest, step)
  return t


def velocity(
  convention: str, prediction: jax.Array, x: jax.Array, t: jax.Array
) -> jax.Array:
  """Our velocity, (B, H, W, C), of what the network predicts at (x, t)."""
  if convention == 'reversed':
    return -prediction
  if convention == 'noise':
    path = path_named('discrete')
    return path.velocity_from_noise(x, prediction, _known(t))
  return prediction


def _known(t: jax.Array) -> jax.Array:
  return jnp.maximum(t, 1 / STEPS)
