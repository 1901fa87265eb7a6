"""Converts our time to a network's time, and its prediction to our velocity.

  velocity   time t            velocity = prediction
  reversed   time 1 - t        velocity = -prediction
  noise      time 1000 t - 1   velocity = path.velocity_from_noise(prediction)
  data       time t            velocity = (x - prediction) / max(t, min_time)

A `reversed` prediction is dx/ds, with the network's time s = 1 - t.
`noise` is DiT's convention: steps 0..999 of the path 'discrete'. Step 0 is at
t = 1/1000, and smaller t are raised to 1/1000. A `data` prediction is x0 on the
linear path, as in JiT (arXiv 2511.13720) and RAEv2 (arXiv 2605.18324). Below
`min_time`, the prediction is instead x - min_time velocity, so that a loss on
velocities has the right minimum; JiT shrinks the target of the loss there.
"""

import jax
import jax.numpy as jnp

from dit.path import STEPS, expand, path_named


def network_time(convention: str, t: jax.Array) -> jax.Array:
  """Returns the network's time at our time t, (B,)."""
  if convention == 'reversed':
    return 1 - t
  if convention == 'noise':
    step = STEPS * _clip(t) - 1
    nearest = jnp.round(step)
    # (step + 1) / 1000 has rounding errors; the network expects whole steps.
    return jnp.where(jnp.abs(step - nearest) < 1e-3, nearest, step)
  return t


def velocity(
  convention: str,
  prediction: jax.Array,
  x: jax.Array,
  t: jax.Array,
  min_time: float = 0.0,
) -> jax.Array:
  """Converts the network's prediction, (B, H, W, C), to our velocity."""
  if convention == 'reversed':
    return -prediction
  if convention == 'noise':
    path = path_named('discrete')
    return path.velocity_from_noise(x, prediction, _clip(t))
  if convention == 'data':
    return (x - prediction) / jnp.maximum(expand(t, x), min_time)
  return prediction


def _clip(t: jax.Array) -> jax.Array:
  return jnp.maximum(t, 1 / STEPS)
