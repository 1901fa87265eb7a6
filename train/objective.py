"""The training objective.

With x_t = alpha(t) x0 + sigma(t) noise and target = dx_t/dt:

  loss = mse(velocity, target) + sum_k weight_k mse(intermediate_k, target)
         + cosine_weight mean(1 - cos(velocity, target))

The cosine is over channels at each position, as in Internal Guidance
(arXiv 2512.24176). There, weight_k is 0.5, and cosine_weight is 0 in the SiT
code and 1 in the LightningDiT code. With a guide, the output's target becomes

  target + w sg(v_f - v_i)

where v_f is the output and v_i a weak prediction of the guide at the same x_t,
and sg stops gradients. `guided_weak` selects v_i:

  tap    first tap; the accelerated target of Internal Guidance
  null   output for the null label; Model Guidance (arXiv 2502.12154)
  skip   output without the blocks `guided_blocks`; SGG (arXiv 2603.20584)

In `train.step`, the guide is the moving average of the network. The paper of
Internal Guidance does not publish w, the start of guidance or the choice of
guide. With probability `label_dropout`, the null label replaces a label.
`time_sampling` selects t:

  uniform        t ~ U(0, 1)
  logit_normal   sigma(t) / alpha(t) = exp(n), n ~ N(mean, std); on the linear
                 path t = sigmoid(n)
  discrete       t = (k + 1) / 1000, k ~ U{0, ..., 999}

With prediction 'data', the network predicts x0, and the loss is the loss above
on velocities (`dit.parameterization` converts x0). With prediction 'noise', the
loss is the error of the predicted noise. A network that learns its variance
adds the variance term of DiT (`train.vlb`).
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.errors import InputError
from core.ranges import (
  LARGE,
  Choice,
  Fraction,
  Images,
  Range,
  Weight,
  check_fields,
)
from dit.path import PATHS, STEPS, Path, VariancePreserving, path_named
from dit.types import Denoiser, SubNetworks
from train.vlb import variance_losses

TIME_SAMPLINGS = ('uniform', 'logit_normal', 'discrete')
PREDICTIONS = ('velocity', 'noise', 'data')
GUIDED_WEAK = ('tap', 'null', 'skip')


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Settings of the objective; configs/base.py explains each field."""

  path: Annotated[str, Choice(PATHS)]
  time_sampling: Annotated[str, Choice(TIME_SAMPLINGS)]
  # In these ranges, exp(mean + 5.5 std) and its square are finite in float32.
  time_mean: Annotated[float, Range(-10, 10)]
  time_std: Annotated[float, Range(1e-3, 5)]
  label_dropout: Fraction
  intermediate_weights: Annotated[tuple[float, ...], Range(0, LARGE)]
  cosine_weight: Weight = 0.0
  guided_weight: Weight = 0.0
  guided_start_images: Images = 0
  guided_weak: Annotated[str, Choice(GUIDED_WEAK)] = 'tap'
  guided_blocks: Annotated[tuple[int, ...], Range(0, 9_999)] = ()
  prediction: Annotated[str, Choice(PREDICTIONS)] = 'velocity'

  def __post_init__(self) -> None:
    check_fields('objective', self)
    if self.prediction == 'data' and self.path != 'linear':
      raise InputError(
        f'objective.prediction data needs the linear path, not {self.path}.'
      )
    if self.prediction == 'noise':
      if not isinstance(path_named(self.path), VariancePreserving):
        raise InputError(
          f'objective.prediction noise needs a variance preserving path '
          f'(discrete or vp), not {self.path}.'
        )
      if self.cosine_weight or self.guided_weight:
        raise InputError(
          'objective.cosine_weight and guided_weight need velocity losses; set '
          'them to 0, or objective.prediction=velocity.'
        )

  def weights(self, num_taps: int) -> tuple[float, ...]:
    """Returns one weight per tap; raises InputError if the counts differ."""
    weights = self.intermediate_weights
    if len(weights) == 1:
      return weights * num_taps
    if len(weights) != num_taps:
      raise InputError(
        f'objective.intermediate_weights has {len(weights)} values for '
        f'{num_taps} taps; give one for each tap, or one for all.'
      )
    return weights


def draw_times(
  config: ObjectiveConfig, path: Path, key: jax.Array, count: int
) -> jax.Array:
  """Samples training times, (count,) float32 in [0, 1]."""
  if config.time_sampling == 'uniform':
    return jax.random.uniform(key, (count,))
  if config.time_sampling == 'discrete':
    return (jax.random.randint(key, (count,), 0, STEPS) + 1) / STEPS
  n = config.time_mean + config.time_std * jax.random.normal(key, (count,))
  return path.time_of_ratio(jnp.exp(n))


class Guide(NamedTuple):
  """A network that guides the target.

  Attributes:
    network: Guide with bound parameters.
    weight: Current weight w.
    weak: Source of the weak prediction, one of GUIDED_WEAK.
    blocks: Blocks that 'skip' leaves out, counted from 0.
  """

  network: Denoiser
  weight: float | jax.Array
  weak: str = 'tap'
  blocks: tuple[int, ...] = ()

  def push(self, x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
    """Returns w sg(v_f - v_i), (B, H, W, C)."""
    sub = None
    if self.weak == 'skip':
      keep = jnp.ones((1, self.network.depth), bool)
      sub = SubNetworks(keep.at[0, list(self.blocks)].set(False))
    output = self.network(x, t, label, sub)
    if self.weak == 'tap':
      weak = output.intermediate[0]
    elif self.weak == 'null':
      weak = self.network(x, t, self.network.null_condition(label)).velocity
    else:
      weak = output.sub[0].velocity
    return self.weight * jax.lax.stop_gradient(output.velocity - weak)


def velocity_losses(
  denoiser: Denoiser,
  path: Path,
  x0: jax.Array,
  noise: jax.Array,
  t: jax.Array,
  label: jax.Array,
  *,
  guide: Guide | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array]:
  """Returns the losses of velocity prediction for each image.

  Args:
    denoiser: Network with bound parameters.
    path: Path between x0 and noise.
    x0: (B, H, W, C) latents.
    noise: (B, H, W, C) standard normal.
    t: (B,) times.
    label: (B,) int.
    guide: Guide of the output's target; None for the plain target.

  Returns:
    Mean squared error of the output, (B,) float32; a tuple of the mean squared
    errors of the taps; and the mean of 1 - cosine over positions of the output.
  """
  target = velocity = path.velocity(x0, noise, t)
  x_t = path.interpolate(x0, noise, t)
  pred = denoiser(x_t, t, label)
  if guide is not None:
    target = target + guide.push(x_t, t, label)

  def mse(prediction, target):
    return jnp.square(prediction - target).mean((1, 2, 3))

  # A new network outputs 0, so epsilon keeps norms at 1e-8 or more.
  cosine = optax.losses.cosine_similarity(pred.velocity, target, epsilon=1e-16)
  direction = (1 - cosine).mean((1, 2))
  taps = tuple(mse(prediction, velocity) for prediction in pred.intermediate)
  return mse(pred.velocity, target), taps, direction


def noise_losses(
  denoiser: Denoiser,
  path: VariancePreserving,
  x0: jax.Array,
  noise: jax.Array,
  t: jax.Array,
  label: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]:
  """Returns the losses of the output, the taps and any learned variance."""
  x_t = path.interpolate(x0, noise, t)
  output = denoiser(x_t, t, label)

  def predict(velocity):
    return path.noise_from_velocity(x_t, velocity, t)

  def mse(velocity):
    return jnp.square(predict(velocity) - noise).mean((1, 2, 3))

  bits = None
  if output.variance is not None:
    bits = variance_losses(
      path, x0, x_t, predict(output.velocity), output.variance, t
    )
  return mse(output.velocity), tuple(map(mse, output.intermediate)), bits


def draw(
  config: ObjectiveConfig,
  x0: jax.Array,
  label: jax.Array,
  key: jax.Array,
  null_label: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns noise (B, H, W, C), times (B,) and labels (B,) with label dropout.

  `x0` are (B, H, W, C) latents. `null_label` replaces dropped labels.
  """
  noise_key, time_key, drop_key = jax.random.split(key, 3)
  noise = jax.random.normal(noise_key, x0.shape)
  t = draw_times(config, path_named(config.path), time_key, len(x0))
  mask = jax.random.bernoulli(drop_key, config.label_dropout, label.shape)
  return noise, t, jnp.where(mask, null_label, label)


def loss_at(
  denoiser: Denoiser,
  config: ObjectiveConfig,
  taps: tuple[int, ...],
  x0: jax.Array,
  noise: jax.Array,
  t: jax.Array,
  label: jax.Array,
  *,
  guide: Guide | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss and a dictionary of its unweighted terms.

  The names of intermediate terms contain the network's `taps`. `label` is the
  result of label dropout. `velocity_losses` explains the other arguments.
  """
  path = path_named(config.path)
  if config.prediction == 'noise':
    assert isinstance(path, VariancePreserving)
    loss, intermediate, bits = noise_losses(denoiser, path, x0, noise, t, label)
    extras = {} if bits is None else {'variance': (1.0, bits)}
  else:
    loss, intermediate, direction = velocity_losses(
      denoiser, path, x0, noise, t, label, guide=guide
    )
    extras = {'cosine': (config.cosine_weight, direction)}
  name = 'noise' if config.prediction == 'noise' else 'velocity'
  terms = {name: loss.mean()}
  total = terms[name]
  weights = config.weights(len(taps))
  for tap, weight, error in zip(taps, weights, intermediate, strict=True):
    terms[f'intermediate_{tap}'] = error.mean()
    total += weight * terms[f'intermediate_{tap}']
  for name, (weight, error) in extras.items():
    if weight:
      terms[name] = error.mean()
      total += weight * terms[name]
  return total, terms
