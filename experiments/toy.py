"""Shared code of the toy experiments on guidance in the plane.

A point is a latent of shape (1, 1, 2), one token of two channels. For a single
token, attention is linear, and the transformer is a stack of residual MLPs
conditioned on t and label. Training and sampling use the project's code. The
data of a class is a mixture of Gaussians with known density; weights sum to 1:

  p(x | label) = sum_m weight_m N(x; mean_m, factor_m factor_m^T)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from dit import backbone
from dit.config import DiTConfig
from dit.sharding import MeshConfig, make_mesh
from dit.types import Denoiser
from guidance import parse
from guidance.parse import with_guide
from sample import sampler
from sample.grid import make_grid
from sample.solvers import Heun, Solver
from train import state as state_lib
from train.ema import EMAConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from train.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A mixture of M Gaussians in equally likely classes.

  The shapes are (M,) for `weight`, (M, 2) for `mean`, and (M,) for the integer
  `label`. `factor` (M, 2, 2) has a matrix F for each covariance F F^T.
  """

  weight: np.ndarray
  mean: np.ndarray
  factor: np.ndarray
  label: np.ndarray

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return int(self.label.max()) + 1

  def of_class(self, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns weights (scaled to sum to 1), means and factors of a class."""
    mask = self.label == label
    weight = self.weight[mask] / self.weight[mask].sum()
    return weight, self.mean[mask], self.factor[mask]

  def draw(self, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples one true point per label (n,); returns (n, 2) float64."""
    x = np.zeros((len(label), 2))
    for c in range(self.num_classes):
      (index,) = np.nonzero(label == c)
      weight, mean, factor = self.of_class(c)
      choice = rng.choice(len(weight), len(index), p=weight)
      noise = rng.standard_normal((len(index), 2, 1))
      x[index] = mean[choice] + (factor[choice] @ noise)[..., 0]
    return x

  def log_density(self, x: np.ndarray, label: int) -> np.ndarray:
    """Returns log p(x | label), (n,), at points x (n, 2)."""
    weight, mean, factor = self.of_class(label)
    inverse = np.linalg.inv(factor)
    white = np.einsum('mij,nmj->nmi', inverse, x[:, None] - mean)
    peak = weight * np.abs(np.linalg.det(inverse)) / (2 * np.pi)
    return special.logsumexp(
      np.log(peak) - np.square(white).sum(-1) / 2, axis=1
    )

  def moments(self, label: int) -> tuple[np.ndarray, float]:
    """Returns the mean (2,) of a class, and the trace of its covariance."""
    weight, mean, factor = self.of_class(label)
    second = np.square(mean).sum(1) + np.square(factor).sum((1, 2))
    center = weight @ mean
    return center, float(weight @ second - center @ center)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Size and training length of a network."""

  depth: int
  width: int
  steps: int
  batch_size: int
  taps: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Data, networks and guidance methods.

  Attributes:
    name: Name of the result files.
    mixture: Data.
    unit: Divisor that normalizes the points to a variance of about 1.
    network: Recipe of the guided network.
    guide: Recipe of AutoGuidance's weaker network.
    methods: Guidance strings by name, where {0} stands for the scale.
    fixed: Scale at which all methods are compared.
    networks: Number of networks per recipe; their seeds differ.
    points: Number of samples per measurement, over all classes.
    solver_steps: Number of Heun steps, which are uniform in t.
  """

  name: str
  mixture: Mixture
  unit: float
  network: Recipe
  guide: Recipe
  methods: dict[str, str]
  fixed: float
  networks: int = 3
  points: int = 2000
  solver_steps: int = 32


def adamw(
  lr: float, steps: int, *, schedule: str = 'cosine', warmup: int = 0
) -> optax.GradientTransformation:
  """Returns the optimizer of every network; `warmup` is a number of steps."""
  rule = OptimizerConfig(
    lr=lr, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=1.0,
    warmup_images=warmup, schedule=schedule, end_fraction=0.05,
  )  # fmt: skip
  return make_optimizer(
    rule, make_schedule(rule, batch_size=1, total_images=steps)
  )


def train(experiment: Experiment, recipe: Recipe) -> list[Denoiser]:
  """Trains one network per seed; returns the networks with EMA weights."""
  mixture, count = experiment.mixture, recipe.batch_size
  config = DiTConfig(
    size=1, channels=2, num_classes=mixture.num_classes, patch=1,
    depth=recipe.depth, width=recipe.width, num_heads=1, mlp_ratio=2.0,
    taps=recipe.taps,
  )  # fmt: skip
  objective = ObjectiveConfig(
    path='linear', time_sampling='logit_normal', time_mean=-1.0, time_std=1.5,
    label_dropout=0.1, intermediate_weights=(0.5,),
  )  # fmt: skip
  optimizer = adamw(2e-3, recipe.steps, schedule='constant', warmup=50)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  abstract = state_lib.abstract(config, optimizer, mesh)
  average = EMAConfig(decay=0.99, ramp=True)
  step = make_train_step(config, objective, optimizer, average, abstract)
  denoisers = []
  for seed in range(experiment.networks):
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    state = state_lib.init(config, optimizer, mesh, seed)
    for _ in range(recipe.steps):
      label = rng.integers(mixture.num_classes, size=count)
      x0 = mixture.draw(label, rng).reshape(-1, 1, 1, 2) / experiment.unit
      # The inverse of x0 = image / 127.5 - 1, which the train step computes.
      image = np.float32((x0 + 1) * 127.5)
      state, _ = step(state, {'image': image, 'label': np.int32(label)}, key)
    denoisers.append(backbone.bind(config, state.ema))
  return denoisers


def draw(
  experiment: Experiment,
  denoiser: Denoiser,
  text: str,
  seed: int,
  *,
  guide: Denoiser | None = None,
  solver: Solver | None = None,
  steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Samples points (n, 2); the labels (n,) cycle through the classes."""
  label = np.arange(experiment.points) % experiment.mixture.num_classes
  x, _ = sampler.sample(
    denoiser,
    with_guide(parse(text), guide),
    jnp.asarray(label, jnp.int32),
    jnp.arange(len(label)),
    make_grid(steps or experiment.solver_steps),
    jnp.uint32(seed),
    sampler.Integration(solver or Heun(), (1, 1, 2)),
  )
  return np.asarray(x, np.float64).reshape(-1, 2) * experiment.unit, label
