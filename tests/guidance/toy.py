import jax
import jax.numpy as jnp
import numpy as np
from networks import Toy

from dit.path import Linear
from guidance import Guidance, Step, parse

TOY = Toy()
X = jax.random.normal(jax.random.key(1), (3, 6, 6, 3))
LABEL = jnp.asarray([4, 0, 7])
NULL = jnp.full_like(LABEL, 10)
PATHS = ('linear', 'cosine', 'vp', 'discrete')


def draws(guidance, network=TOY, label=LABEL, seed=0):
  key = jax.random.key(seed)
  return guidance.draw(network, label, key, jax.random.split(key, len(label)))


@jax.jit
def _predict(guidance, network, x, t, label, step, memory):
  return guidance.predict(network, x, t, label, step, memory)


def predict(
  guidance, t=0.5, *, network=TOY, x=X, label=LABEL, memory=None, **step
):
  if isinstance(guidance, str):
    guidance = parse(guidance)
  assert isinstance(guidance, Guidance)
  defaults = {
    'at': jnp.float32(t),
    't_next': jnp.float32(0),
    'draws': draws(guidance, network, label),
    'path': Linear(),
  }
  step = Step(**defaults | step)
  return _predict(guidance, network, x, jnp.float32(t), label, step, memory)


def guided(*args, **kwargs):
  return predict(*args, **kwargs).velocity


@jax.jit
def _plain(network, x, t, label):
  return network(x, jnp.full(len(x), t), label)


def plain(label=LABEL, t=0.5, *, network=TOY, x=X):
  return _plain(network, x, jnp.float32(t), label).velocity


def close(ours, expected, rtol=1e-5, atol=1e-5):
  np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)


def over_images(f, *arrays):
  """Applies f to each image as a flat float64 array."""
  flat = [np.asarray(a, np.float64).reshape(len(a), -1) for a in arrays]
  out = [f(*rows) for rows in zip(*flat, strict=True)]
  return np.asarray(out).reshape(arrays[0].shape)


class Space:
  """Converts predictions on the linear or the cosine path in float64."""

  def __init__(self, path, t):
    t = float(np.float32(t))
    if path == 'linear':
      self.alpha, self.sigma, self.d_alpha, self.d_sigma = 1 - t, t, -1.0, 1.0
    else:
      rate = np.pi / 2
      self.alpha, self.sigma = np.cos(rate * t), np.sin(rate * t)
      self.d_alpha, self.d_sigma = -rate * self.sigma, rate * self.alpha

  def matrix(self):
    """Returns the matrix from (x0, noise) to (x, velocity)."""
    return np.asarray([[self.alpha, self.sigma], [self.d_alpha, self.d_sigma]])

  def split(self, x, velocity):
    parts = np.linalg.inv(self.matrix())
    x, velocity = (np.asarray(a, np.float64) for a in (x, velocity))
    return [a * x + b * velocity for a, b in parts]

  def from_x0(self, x, x0):
    x = np.asarray(x, np.float64)
    noise = (x - self.alpha * x0) / self.sigma
    return self.d_alpha * x0 + self.d_sigma * noise

  def from_noise(self, x, noise):
    x = np.asarray(x, np.float64)
    x0 = (x - self.sigma * noise) / self.alpha
    return self.d_alpha * x0 + self.d_sigma * noise
