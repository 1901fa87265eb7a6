"""What student and fake denoiser minimise.

From noise at t_1 = 1 the student G walks its own grid t_1 > ... > t_N > 0 to
z at t_k (backward simulation: no gradient, k the same everywhere), and predicts

  v = G(z, t_k),   x = x0 that v implies

Where both networks are asked for their opinion of it, the query (q, r):

  renoise      q = x noised to a random level r; each term of its own
  trajectory   q = z + (t_{k+1} - t_k) v, r = t_{k+1}: timestep sharing
               (SD3.5-Flash, arXiv 2509.21318); of the last interval, which
               ends at 0, q = x noised to one of t_2 ... t_N, our rule
  grid         q = x noised to one of t_2 ... t_N: between the two

x (with `trajectory`: q) then moves along the terms of `train.distill.terms`.
The fake denoiser learns the velocities of the student's samples: of x at a
random k with `renoise`, else of whole walks, half of its levels then being
t_2 ... t_N.

Without DMD the student follows the guided teacher (trajectory guidance, stage 1
of SD3.5-Flash): with x_i on the teacher's own trajectory,

  L = mean |G(x_i, t_i) - (x_{i+1} - x_i) / (t_{i+1} - t_i)|^2
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dit import model
from dit.config import DiTConfig
from dit.path import Path, expand
from dit.sharding import constrain_batch
from dit.types import Denoiser
from guidance import Step
from sample.solvers import Euler, Evaluation, Renoise
from train.distill import discriminator, lora, terms
from train.distill.config import DistillConfig
from train.distill.levels import bounds, draw_levels, trained_steps

Metrics = dict[str, jax.Array]
_sg = jax.lax.stop_gradient


class Visit(NamedTuple):
  """The student at one of its steps.

  Attributes:
    k: number of the step.
    t: scalar time.
    z: (B, H, W, C), where it came by itself.
    v: its velocity there.
    x: x0 that the velocity implies.
  """

  k: jax.Array
  t: jax.Array
  z: jax.Array
  v: jax.Array
  x: jax.Array


@dataclasses.dataclass(frozen=True)
class Distillation:
  """A student in the making: everything but parameters and keys.

  Attributes:
    config: the section `distill`.
    student: the student's network.
    teacher: the teacher's; without its taps, the fake denoiser's too.
    path: of both.
    solver: the student's rule for one step.
    times: its grid, N + 1 times.
    batch_size: B.
    moments: mean and standard deviation of data, for 'mean_variance'.
  """

  config: DistillConfig
  student: DiTConfig
  teacher: DiTConfig
  path: Path
  solver: Euler | Renoise
  times: tuple[float, ...]
  batch_size: int
  moments: tuple[float, ...] = ()

  @property
  def grid(self) -> jax.Array:
    """The times, (N + 1,) float32."""
    return jnp.asarray(self.times, jnp.float32)

  @property
  def fake_config(self) -> DiTConfig:
    """The fake denoiser's network: the teacher's, without its taps."""
    return dataclasses.replace(self.teacher, taps=())

  @property
  def blocks(self) -> tuple[int, ...]:
    """Those that the discriminator looks at."""
    chosen = self.config.discriminator_blocks
    return chosen or discriminator.default_blocks(self.teacher.depth)

  def draw_labels(self, key: jax.Array) -> jax.Array:
    """Uniform over the classes, (B,)."""
    shape, classes = (self.batch_size,), self.student.num_classes
    return constrain_batch(jax.random.randint(key, shape, 0, classes))

  def noise(self, key: jax.Array) -> jax.Array:
    """Standard normal, (B, H, W, C)."""
    shape = (self.batch_size, *self.student.latent_shape)
    return constrain_batch(jax.random.normal(key, shape))

  def fake(self, params: model.Params, fake: Any) -> model.BoundDenoiser:
    """The fake denoiser, from the teacher's parameters where it is LoRA."""
    network, config = fake['network'], self.config
    if config.fake == 'lora':
      params = {key: params[key] for key in params if key != 'tap_heads'}
      network = lora.apply(params, network, config.lora_scale)
    return model.bind(self.fake_config, network)

  def walk(
    self, student: Denoiser, label: jax.Array, k: int | jax.Array,
    key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """The student's own state at t_k, from noise, without gradient."""
    grid = self.grid

    def step(j, x):
      t = jnp.full(len(x), grid[j])
      first = Evaluation(student(x, t, label).velocity)
      noise = None
      if self.solver.stochastic:
        noise = self.noise(jax.random.fold_in(key, j))
      return self.solver.step(None, first, x, grid[j], grid[j + 1], noise)

    start = self.noise(jax.random.fold_in(key, len(self.times)))
    return _sg(jax.lax.fori_loop(0, k, step, start))

  def visit(
    self, params: model.Params, label: jax.Array, key: jax.Array
  ) -> Visit:
    """A walk to a random step, and the prediction there, with gradient."""
    k_key, walk_key = jax.random.split(key)
    steps = jnp.asarray(trained_steps(self.config.branch, np.array(self.times)))
    k = jax.random.choice(k_key, steps)
    frozen = model.bind(self.student, _sg(params))
    z = self.walk(frozen, label, k, walk_key)
    t = self.grid[k]
    v = model.bind(self.student, params)(z, jnp.full(len(z), t), label).velocity
    return Visit(k, t, z, v, self.path.x0_from_velocity(z, v, t))

  def draw_shared(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Some of t_2 ... t_N."""
    return jax.random.choice(key, self.grid[1:-1], shape)

  # The fake denoiser.

  def fake_loss(
    self, fake: Any, params: model.Params, teacher: model.Params,
    label: jax.Array, real: jax.Array | None, key: jax.Array,
  ) -> tuple[jax.Array, Metrics]:  # fmt: skip
    """Of the fake denoiser and the discriminator on it.

    Args:
      fake: 'network' and 'heads', which are differentiated.
      params: of the student.
      teacher: parameters.
      label: (B,).
      real: (B, H, W, C) latents of these labels; None without discriminator.
      key: of this update.
    """
    walk_key, level_key, noise_key, gan_key = jax.random.split(key, 4)
    denoiser = self.fake(teacher, fake)
    x = self.samples(params, label, walk_key)
    level = self._fake_levels(level_key)
    noise = self.noise(noise_key)
    out = denoiser(self.path.interpolate(x, noise, level), level, label)
    error = out.velocity - self.path.velocity(x, noise, level)
    loss = jnp.square(error).mean()
    metrics = {'loss/fake': loss}
    if real is not None:
      says = functools.partial(self._says, denoiser, fake, label, key=gan_key)
      on_real, on_fake = says(real), says(x)
      of_heads = jax.nn.softplus(-on_real).mean()
      of_heads += jax.nn.softplus(on_fake).mean()
      metrics |= {
        'loss/discriminator': of_heads,
        'distill/says_real': jax.nn.sigmoid(on_real).mean(),
        'distill/says_generated': jax.nn.sigmoid(on_fake).mean(),
      }
      loss = loss + self.config.discriminator_weight * of_heads
    return loss, metrics

  def samples(
    self, params: model.Params, label: jax.Array, key: jax.Array
  ) -> jax.Array:
    """What the fake denoiser learns of, (B, H, W, C), without gradient."""
    if self.config.query == 'renoise':
      return _sg(self.visit(_sg(params), label, key).x)
    student = model.bind(self.student, _sg(params))
    return self.walk(student, label, len(self.times) - 1, key)

  def _fake_levels(self, key: jax.Array) -> jax.Array:
    key, which, grid = jax.random.split(key, 3)
    anywhere = dataclasses.replace(self.config, min_level=1e-3, max_level=1.0)
    level = draw_levels(anywhere, key, self.batch_size, 1.0)
    if self.config.query == 'renoise':
      return level
    shared = self.draw_shared(grid, level.shape)
    half = jax.random.bernoulli(which, 0.5, level.shape)
    return jnp.where(half, shared, level)

  def _says(
    self, denoiser: model.BoundDenoiser, fake: Any, label: jax.Array,
    x: jax.Array, *, key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Of the heads, (K, B), on x noised to levels that the key gives."""
    level_key, noise_key = jax.random.split(key)
    level = draw_levels(self.config, level_key, len(x), 1.0)
    noised = self.path.interpolate(x, self.noise(noise_key), level)
    out = denoiser(noised, level, label, points=self.blocks)
    return discriminator.logits(fake['heads'], out.hidden)

  # The student.

  def student_loss(
    self, params: model.Params, fake: Any, teacher: model.Params,
    label: jax.Array, key: jax.Array,
  ) -> tuple[jax.Array, Metrics]:  # fmt: skip
    """Of the student; arguments as of `fake_loss`."""
    config = self.config
    key, trajectory_key, gan_key = jax.random.split(key, 3)
    if config.method == 'trajectory':
      loss = self.trajectory_loss(params, teacher, label, trajectory_key)
      return loss, {'loss/trajectory': loss}
    visit_key, query_key = jax.random.split(key)
    visit = self.visit(params, label, visit_key)
    place = self.queries(visit, query_key)
    moved, dm, ca, metrics = self.directions(visit, place, fake, teacher, label)
    loss = terms.surrogate(moved, dm + ca)
    metrics |= {
      'loss/dmd': loss,
      'distill/student_std': visit.x.std(),
      'distill/student_mean': visit.x.mean(),
    }
    if config.regulariser == 'mean_variance':
      metrics['loss/mean_variance'] = terms.mean_variance(
        visit.x, *self.moments
      )
      loss += config.dm_weight * metrics['loss/mean_variance']
    if config.adversarial:
      on_fake = self._says(
        self.fake(teacher, fake), fake, label, visit.x, key=gan_key
      )
      metrics['loss/gan'] = jax.nn.softplus(-on_fake).mean()
      loss += config.gan_weight * metrics['loss/gan']
    if config.trajectory_weight:
      metrics['loss/trajectory'] = self.trajectory_loss(
        params, teacher, label, trajectory_key
      )
      loss += config.trajectory_weight * metrics['loss/trajectory']
    return loss, metrics

  def queries(self, visit: Visit, key: jax.Array) -> dict[str, Any]:
    """Where the networks are asked: by term, 'ca' and 'dm', (q, r).

    q (B, H, W, C) is differentiable where it is what moves ('trajectory'). With
    one entry for both terms, 'both'.
    """
    keys, config = jax.random.split(key, 4), self.config
    if config.query == 'renoise':
      tops = dict(zip(('ca', 'dm'), bounds(config, visit.t), strict=True))
      names = ('both',) if config.schedule == 'shared' else ('ca', 'dm')
      places = {}
      for name, level_key, noise_key in zip(
        names, keys[:2], keys[2:], strict=False
      ):
        top = tops.get(name, tops['dm'])
        r = draw_levels(config, level_key, self.batch_size, top)
        q = self.path.interpolate(_sg(visit.x), self.noise(noise_key), r)
        places[name] = (q, r)
      return places
    r = self.draw_shared(keys[0], ())
    q = self.path.interpolate(visit.x, self.noise(keys[2]), r)
    if config.query == 'trajectory':
      last = visit.k == len(self.times) - 2
      t_next = self.grid[visit.k + 1]
      euler = visit.z + (t_next - visit.t) * visit.v
      q, r = jnp.where(last, q, euler), jnp.where(last, r, t_next)
    return {'both': (q, jnp.full(self.batch_size, r))}

  def directions(
    self, visit: Visit, places: dict[str, Any], fake: Any,
    teacher: model.Params, label: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array, Metrics]:  # fmt: skip
    """What moves, the DM term, the CA term, and what to log of them."""
    config, path = self.config, self.path
    moved = places['both'][0] if config.query == 'trajectory' else visit.x
    places = {name: (_sg(q), r) for name, (q, r) in places.items()}
    at_ca, at_dm = (places.get('both') or places[n] for n in ('ca', 'dm'))
    network, x = model.bind(self.teacher, teacher), _sg(visit.x)
    dm = ca = jnp.zeros_like(x)
    metrics, out = {}, None
    if config.augmented:
      q, r = at_ca
      out = config.teacher_guidance.at(network, q, r, label)
      c = path.x0_from_velocity(q, out.parts['strong'], r)
      g = path.x0_from_velocity(q, out.velocity, r)
      unit = g if config.normaliser == 'guided' else c
      ca = config.ca_weight * terms.push(g, c, unit, x)
      metrics['distill/ca'] = terms.rms(ca)
    if config.matches:
      q, r = at_dm
      v_fake = self.fake(teacher, fake)(q, r, label).velocity
      if out is None or 'both' not in places:
        v = network(q, r, label).velocity
        c = unit = path.x0_from_velocity(q, v, r)
      else:
        v = out.parts['strong']
      f = path.x0_from_velocity(q, v_fake, r)
      dm = config.dm_weight * terms.push(c, f, unit, x)
      metrics['distill/dm'] = terms.rms(dm)
      metrics['distill/cosine_fake_real'] = terms.cosine(v_fake, v)
    if config.augmented and config.matches:
      metrics['distill/ca_to_dm'] = metrics['distill/ca'] / (
        metrics['distill/dm'] + terms.EPSILON
      )
    return moved, _sg(dm), _sg(ca), metrics

  def trajectory_loss(
    self, params: model.Params, teacher: model.Params, label: jax.Array,
    key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Of the student on the guided teacher's trajectories."""
    states = _sg(self.teach(teacher, label, self.noise(key)))
    grid, n = self.grid, len(self.times) - 1
    lengths = expand(grid[1:] - grid[:-1], states[1:])
    rates = (states[1:] - states[:-1]) / lengths

    def rows(x):  # image by image, so that a sharded batch stays in place
      return constrain_batch(jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]))

    v = model.bind(self.student, params)(
      rows(states[:-1]),
      jnp.tile(grid[:-1], self.batch_size),
      jnp.repeat(label, n),
    ).velocity
    return jnp.square(v - rows(rates)).mean()

  def teach(
    self, teacher: model.Params, label: jax.Array, x: jax.Array
  ) -> jax.Array:
    """The guided teacher at every time of the grid, (N + 1, B, H, W, C).

    Euler's rule, `substeps` in each interval.
    """
    guidance, count = self.config.teacher_guidance, self.config.substeps
    network = model.bind(self.teacher, _sg(teacher))
    draws = (None,) * len(guidance.terms)

    def interval(x, ends):
      t, h = ends[0], (ends[1] - ends[0]) / count

      def substep(x, m):
        at = t + m * h
        v = guidance(network, x, at, label, Step(at, draws, at + h, self.path))
        return x + h * v, None

      x, _ = jax.lax.scan(substep, x, jnp.arange(count))
      return x, x

    _, states = jax.lax.scan(interval, x, (self.grid[:-1], self.grid[1:]))
    return jnp.concatenate([x[None], states])

  def passes(self) -> float:
    """Of the network in a step, per image: a backward pass counts as two."""
    config, n = self.config, len(self.times) - 1
    walk = (n - 1) / 2 + 1
    student = 0.0
    if config.method == 'dmd':
      pair = config.augmented * (1 + bool(config.teacher_guidance.terms))
      shared = config.query != 'renoise' or config.schedule == 'shared'
      own = config.matches * (1 + (not pair or not shared))
      student += walk + 2 + pair + own + 3 * config.adversarial
    if config.method == 'trajectory' or config.trajectory_weight:
      rows = 1 + bool(config.teacher_guidance.terms)
      student += n * (config.substeps * rows + 3)
    fake = 0.0
    if config.matches or config.adversarial:
      walk = walk if config.query == 'renoise' else n
      fake = walk + 3 + 6 * config.adversarial
    return fake + student / config.period
