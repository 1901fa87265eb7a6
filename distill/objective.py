"""The losses of the student and of the fake denoiser.

The student reaches a state z at t_k with its own steps. At z, the student
predicts the velocity v, which implies a prediction x of x0 (`distill.rollout`).
Teacher and fake denoiser are evaluated at a query: a state q at level r.

  renoise      q = x noised to a random level r, for each term or for both terms
  student_trajectory
               q = z + (t_{k+1} - t_k) v, r = t_{k+1}; this is timestep sharing
               (SD3.5-Flash, arXiv 2509.21318). In the last interval, which ends
               at 0, q = x noised to one of t_2 ... t_N (ours)
  grid         q = x noised to one of t_2 ... t_N

The loss moves x along the terms of `distill.dmd`; for `student_trajectory`, the
loss moves q. The fake denoiser learns velocities of the student's samples. For
`renoise`, the samples are x at a random k. Otherwise, the samples are the ends
of whole trajectories, and half of the noise levels are from t_2 ... t_N. The
discriminator and the adversarial term use x at a random k.

The teacher gives the real score. `distill.teacher_lora_scale` adds the fake
denoiser's low-rank changes to the teacher, with a scale that decreases to 0 (as
in the dynamic guidance of DMDR's repository, vvvvvjdy/dmdr, arXiv 2511.13649).

Without DMD, the student G follows the guided teacher (trajectory guidance,
stage 1 of SD3.5-Flash). For states x_i on the teacher's trajectory, the loss is

  L = mean |G(x_i, t_i) - (x_{i+1} - x_i) / (t_{i+1} - t_i)|^2
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from distill import discriminator, dmd, lora
from distill.noise_levels import beta_now, bounds, draw_levels, remaining
from distill.rollout import Rollout, Visit
from dit import backbone
from dit.base import BoundNetwork, NetworkConfig, Params
from dit.path import expand
from dit.sharding import constrain_batch
from guidance import Step

Metrics = dict[str, jax.Array]
Updates = jax.Array | int
_sg = jax.lax.stop_gradient


class Distillation(Rollout):
  """The losses; `updates` is the number of the student's updates so far."""

  @property
  def fake_config(self) -> NetworkConfig:
    """Returns the fake denoiser's network, the teacher's without taps."""
    return dataclasses.replace(self.teacher, taps=())

  @property
  def blocks(self) -> tuple[int, ...]:
    """Returns the blocks whose hidden states the discriminator reads."""
    depths = self.config.discriminator_blocks
    return depths or discriminator.default_blocks(self.teacher.depth)

  def fake(self, params: Params, fake: Any) -> BoundNetwork:
    """Returns the fake denoiser; only LoRA uses the teacher's `params`."""
    network, config = fake['network'], self.config
    if config.fake == 'lora':
      _, params = backbone.without_taps(self.teacher, params)
      network = lora.apply(params, network, config.lora_scale)
    return backbone.bind(self.fake_config, network)

  def real(self, params: Params, fake: Any, updates: Updates) -> BoundNetwork:
    """Returns the teacher, with the fake denoiser's LoRA if configured."""
    strength = self.config.teacher_lora_scale
    if strength:
      scale = strength * remaining(self.config, updates)
      params = lora.apply(params, fake['network'], scale)
    return backbone.bind(self.teacher, params)

  def fake_loss(
    self, fake: Any, params: Params, teacher: Params,
    label: jax.Array, real: tuple[jax.Array, jax.Array] | None, key: jax.Array,
    updates: Updates = 0,
  ) -> tuple[jax.Array, Metrics]:  # fmt: skip
    """Returns the loss of the fake denoiser and the discriminator.

    Args:
      fake: Parameters to differentiate, a tree of 'network' and 'heads'.
      params: Parameters of the student.
      teacher: Parameters of the teacher.
      label: Labels of the student's samples, (B,).
      real: Latents (B, H, W, C) and labels (B,) of data, for the discriminator.
      key: Random key of this update.
      updates: Number of the student's updates so far.
    """
    rollout_key, level_key, noise_key, gan_key = jax.random.split(key, 4)
    denoiser = self.fake(teacher, fake)
    x, inputs = self.samples(params, label, rollout_key)
    level = self._fake_levels(level_key, updates)
    noise = self.noise(noise_key)
    out = denoiser(self.path.interpolate(x, noise, level), level, label)
    error = out.velocity - self.path.velocity(x, noise, level)
    loss = jnp.square(error).mean()
    metrics = {'loss/fake': loss}
    if real is not None:
      real_key, shown_key = jax.random.split(gan_key)
      real_out = self._logits(denoiser, fake, real[1], real[0], key=real_key)
      fake_out = self._logits(denoiser, fake, label, inputs, key=shown_key)
      head_loss = jax.nn.softplus(-real_out).mean()
      head_loss += jax.nn.softplus(fake_out).mean()
      metrics |= {
        'loss/discriminator': head_loss,
        'distill/says_real': jax.nn.sigmoid(real_out).mean(),
        'distill/says_generated': jax.nn.sigmoid(fake_out).mean(),
      }
      loss = loss + self.config.discriminator_weight * head_loss
    return loss, metrics

  def samples(
    self, params: Params, label: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns samples for the fake denoiser and for the discriminator.

    Both are (B, H, W, C), without gradient. The discriminator's samples have
    the distribution of `visit(...).x`, on which the adversarial term acts.
    """
    if self.config.query == 'renoise':
      x = _sg(self.visit(_sg(params), label, key).x)
      return x, x
    student = backbone.bind(self.student, _sg(params))
    if not self.config.adversarial:
      x = self.roll_out(student, label, len(self.times) - 1, key)
      return x, x
    k = self.draw_step(jax.random.fold_in(key, len(self.times) + 1))
    return self.roll_out_and_predict(student, label, k, key)

  def _fake_levels(self, key: jax.Array, updates: Updates) -> jax.Array:
    key, half_key, grid = jax.random.split(key, 3)
    low = min(self.config.min_level, 1e-3)
    config = dataclasses.replace(self.config, min_level=low, max_level=1.0)
    beta = beta_now(self.config, updates)
    level = draw_levels(config, key, self.batch_size, 1.0, beta)
    if self.config.query == 'renoise':
      return level
    shared_level = self.draw_shared(grid, level.shape)
    half = jax.random.bernoulli(half_key, 0.5, level.shape)
    return jnp.where(half, shared_level, level)

  def _logits(
    self, denoiser: Any, fake: Any, label: jax.Array,
    x: jax.Array, *, key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Adds noise of random levels to x; returns discriminator logits (K, B)."""
    level_key, noise_key = jax.random.split(key)
    config = dataclasses.replace(self.config, min_level=0.0, max_level=1.0)
    level = draw_levels(config, level_key, len(x), 1.0)
    noisy_x = self.path.interpolate(x, self.noise(noise_key), level)
    out = denoiser(noisy_x, level, label, points=self.blocks)
    return discriminator.logits(fake['heads'], out.hidden)

  def student_loss(
    self, params: Params, fake: Any, teacher: Params,
    label: jax.Array, key: jax.Array, updates: Updates = 0,
  ) -> tuple[jax.Array, Metrics]:  # fmt: skip
    """Returns the student's loss; `fake_loss` explains the arguments."""
    config = self.config
    key, trajectory_key, gan_key = jax.random.split(key, 3)
    if config.method == 'teacher_trajectory':
      loss = self.trajectory_loss(params, teacher, label, trajectory_key)
      return loss, {'loss/trajectory': loss}
    visit_key, query_key = jax.random.split(key)
    visit = self.visit(params, label, visit_key)
    queries = self.queries(visit, query_key, updates)
    target, dm, ca, metrics = self.directions(
      visit, queries, fake, teacher, label, updates
    )
    loss = dmd.surrogate(target, dm + ca)
    metrics |= {
      'loss/dmd': loss,
      'distill/student_std': visit.x.std(),
      'distill/student_mean': visit.x.mean(),
    }
    if config.regularizer == 'mean_variance':
      metrics['loss/mean_variance'] = dmd.mean_variance(visit.x, *self.moments)
      loss += config.dm_weight * metrics['loss/mean_variance']
    if config.adversarial:
      logits = self._logits(
        self.fake(teacher, fake), fake, label, visit.x, key=gan_key
      )
      metrics['loss/gan'] = jax.nn.softplus(-logits).mean()
      loss += config.gan_weight * metrics['loss/gan']
    return loss, metrics

  def queries(
    self, visit: Visit, key: jax.Array, updates: Updates = 0
  ) -> dict[str, Any]:
    """Returns queries (q, r) for 'ca' and for 'dm', or one query for 'both'.

    For the query 'student_trajectory', q (B, H, W, C) is differentiable, since
    the loss moves q.
    """
    keys, config = jax.random.split(key, 4), self.config
    if config.query == 'renoise':
      tops = dict(zip(('ca', 'dm'), bounds(config, visit.t), strict=True))
      beta = beta_now(config, updates)
      names = ('both',) if config.schedule == 'shared' else ('ca', 'dm')
      points = {}
      for name, level_key, noise_key in zip(
        names, keys[:2], keys[2:], strict=False
      ):
        top = tops.get(name, tops['dm'])
        shape = None if name == 'ca' else beta
        r = draw_levels(config, level_key, self.batch_size, top, shape)
        q = self.path.interpolate(_sg(visit.x), self.noise(noise_key), r)
        points[name] = (q, r)
      return points
    r = self.draw_shared(keys[0], ())
    q = self.path.interpolate(visit.x, self.noise(keys[2]), r)
    if config.query == 'student_trajectory':
      last = visit.k == len(self.times) - 2
      t_next = self.grid[visit.k + 1]
      euler = visit.z + expand(t_next - visit.t, visit.z) * visit.v
      q = jnp.where(expand(last, q), q, euler)
      r = jnp.where(last, r, t_next)
    return {'both': (q, jnp.broadcast_to(r, self.batch_size))}

  def directions(
    self, visit: Visit, places: dict[str, Any], fake: Any,
    teacher: Params, label: jax.Array, updates: Updates = 0,
  ) -> tuple[jax.Array, jax.Array, jax.Array, Metrics]:  # fmt: skip
    """Returns the x or q that the loss moves, terms DM and CA, and metrics."""
    config, path = self.config, self.path
    target = (
      places['both'][0] if config.query == 'student_trajectory' else visit.x
    )
    places = {name: (_sg(q), r) for name, (q, r) in places.items()}
    at_ca, at_dm = (places.get('both') or places[n] for n in ('ca', 'dm'))
    network, x = self.real(teacher, fake, updates), _sg(visit.x)
    dm = ca = jnp.zeros_like(x)
    metrics, out = {}, None
    if config.augmented:
      q, r = at_ca
      out = config.teacher_guidance.at(network, q, r, label)
      c = path.x0_from_velocity(q, out.parts['strong'], r)
      g = path.x0_from_velocity(q, out.velocity, r)
      unit = g if config.normalizer == 'guided' else c
      ca = config.ca_weight * dmd.push(g, c, unit, x)
      metrics['distill/ca'] = dmd.rms(ca)
    if config.matches:
      q, r = at_dm
      v_fake = self.fake(teacher, fake)(q, r, label).velocity
      if out is None or 'both' not in places:
        v = network(q, r, label).velocity
        c = unit = path.x0_from_velocity(q, v, r)
      else:
        v = out.parts['strong']
      f = path.x0_from_velocity(q, v_fake, r)
      dm = config.dm_weight * dmd.push(c, f, unit, x)
      metrics['distill/dm'] = dmd.rms(dm)
      metrics['distill/cosine_fake_real'] = dmd.cosine(v_fake, v)
    if config.augmented and config.matches:
      metrics['distill/ca_to_dm'] = metrics['distill/ca'] / (
        metrics['distill/dm'] + dmd.EPSILON
      )
    return target, _sg(dm), _sg(ca), metrics

  def trajectory_loss(
    self, params: Params, teacher: Params, label: jax.Array,
    key: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Returns the student's loss on the guided teacher's trajectories."""
    states = _sg(self.teach(teacher, label, self.noise(key)))
    grid, n = self.grid, len(self.times) - 1
    lengths = expand(grid[1:] - grid[:-1], states[1:])
    rates = (states[1:] - states[:-1]) / lengths

    def rows(x):  # the image axis is first, so images stay on their devices
      return constrain_batch(jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]))

    v = backbone.bind(self.student, params)(
      rows(states[:-1]),
      jnp.tile(grid[:-1], self.batch_size),
      jnp.repeat(label, n),
    ).velocity
    return jnp.square(v - rows(rates)).mean()

  def teach(self, teacher: Params, label: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the guided teacher's states on the grid, (N + 1, B, H, W, C).

    The teacher takes `substeps` Euler steps in each interval of the grid.
    """
    guidance, count = self.config.teacher_guidance, self.config.substeps
    network = backbone.bind(self.teacher, _sg(teacher))
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
    """Returns network passes per image and step; a backward pass costs two."""
    config, n = self.config, len(self.times) - 1
    rollout = self.rollout_passes
    student = 0.0
    if config.method == 'dmd':
      pair = config.augmented * (1 + bool(config.teacher_guidance.terms))
      is_shared = config.query != 'renoise' or config.schedule == 'shared'
      count = config.matches * (1 + (not pair or not is_shared))
      student += rollout + 2 + pair + count + 3 * config.adversarial
    if config.method == 'teacher_trajectory':
      rows = 1 + bool(config.teacher_guidance.terms)
      student += n * (config.substeps * rows + 3)
    fake = 0.0
    if config.fakes:
      rollout = rollout if config.query == 'renoise' else n
      fake = rollout + 3 + 6 * config.adversarial
    return fake + student / config.period
