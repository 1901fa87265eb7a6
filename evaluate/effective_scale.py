"""The effective CFG scale of a guidance method.

Guidance Matters (arXiv 2602.22570) compares a method with CFG at the scale

  w = mean over steps and images of <v - u, c - u> / |c - u|^2

where v is the guided velocity, c the conditional and u the null prediction of
the network at the states of the guided trajectory. CFG with a constant scale w
has the effective scale w, and no guidance has 1. Products are per image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dit.sharding import batch_parts
from evaluate.metrics import Estimate
from guidance import Guidance
from guidance.base import dot
from sample.generate import Sampler
from sample.sampler import State

_MOST = 64


def effective_scale(
  sampler: Sampler, guidance: Guidance, labels: np.ndarray, seed: int
) -> Estimate | None:
  """Measures the effective scale and its standard error over images.

  At most 64 images of the sampler's first batch are sampled again, with three
  more evaluations per step. Zero-init steps of CFG-Zero* count as guided.

  Args:
    sampler: Network and settings of sampling.
    guidance: Guidance method, with its guide.
    labels: Labels (n,) of images 0 to n - 1.
    seed: Random seed of all noise.

  Returns:
    None if the network has no null label, where u is undefined, or if the
    solver is adaptive and has no fixed steps.
  """
  if not sampler.denoiser.null_label or sampler.solver.adaptive:
    return None
  sampler.check(guidance)
  count = min(len(labels), sampler.config.batch_size, _MOST)
  parts = batch_parts(sampler.mesh)
  index = np.arange(-(-count // parts) * parts)
  with jax.set_mesh(sampler.mesh), sampler.config.precision():
    _, ratios = sampler.latents(
      guidance, np.resize(labels, len(index)), index, seed, record=_projection
    )
    ratios = np.asarray(jax.device_get(ratios), np.float64)[:, :count]
  # A ratio is undefined where a label does not affect the prediction.
  values = np.ma.masked_invalid(ratios).mean(0).compressed()
  if not len(values):
    return None
  error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
  return Estimate(float(values.mean()), error)


def _projection(state: State) -> jax.Array:
  """Returns <v - u, c - u> / |c - u|^2 for each image, (B,)."""
  x = state.x
  evaluate = functools.partial(
    state.denoiser, x, jnp.broadcast_to(state.t, len(x))
  )
  null = state.denoiser.null_condition(state.condition)
  c, u = (
    evaluate(condition).velocity.astype(x.dtype)
    for condition in (state.condition, null)
  )
  ratio = dot(state.predict().velocity - u, c - u) / dot(c - u, c - u)
  return ratio[:, 0, 0, 0]
