"""Several methods at once: one guided velocity from one pass, or few.

With IG refining every row first, and strong the conditional row:

  velocity = strong + sum_k (scale_k(t) - 1) transform_k(strong - weak_k)

The rows that the label terms ask for share one batch with the conditional
rows, interleaved image by image so that a sharded batch stays where it is. The
sub-networks of the block terms start where they first differ from the
conditional row. A term whose scale at t is 1 is off: its pass is not run.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dit.blocks import rows
from dit.types import Denoiser, DenoiserOutput, SubNetworks
from guidance.terms import Internal, Term


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
  """A composition of methods; without any, the conditional prediction.

  For example `Guidance(Internal(Scale(1.4)), (ClassifierFree(Scale(1.35)),))`.

  Attributes:
    internal: IG, or None.
    terms: the other methods.
  """

  internal: Internal | None = None
  terms: tuple[Term, ...] = ()

  def __call__(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    key: jax.Array,
    at: jax.Array | None = None,
  ) -> jax.Array:
    """The guided velocity, (B, H, W, C); see `predict`."""
    return self.predict(denoiser, x, t, label, key, at)[0]

  def predict(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    key: jax.Array,
    at: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array | None]:
    """The guided velocity, and the variance that the network learned.

    Args:
      denoiser: the network.
      x: (B, H, W, C).
      t: scalar in [0, 1].
      label: (B,) int.
      key: of this solver step; the random choices of all its stages.
      at: scalar, the time at which scales are read; None for t. Where it is
        the beginning of a solver's step, one step follows one vector field.

    Returns:
      (B, H, W, C) float32; and the same shape of the conditional row, or None.
    """
    at = t if at is None else at
    scales = [term.scale.at(at) for term in self.terms]
    evaluate = functools.partial(
      self._evaluate, denoiser, x, t, label, key, at, scales
    )
    if not self.terms:
      return evaluate(active=())
    # One branch for each set of terms that are on: set bits of the number.
    branches = [
      functools.partial(
        evaluate,
        active=tuple(k for k in range(len(self.terms)) if number >> k & 1),
      )
      for number in range(2 ** len(self.terms))
    ]
    on = [(scale != 1) * 2**k for k, scale in enumerate(scales)]
    return jax.lax.switch(sum(on), branches)

  def passes(self, at: jax.Array, depth: int, key: jax.Array) -> jax.Array:
    """Cost of one evaluation, in whole passes of the conditional row."""
    total = jnp.float32(1)
    for k, term in enumerate(self.terms):
      keep = term.keep(depth, jax.random.fold_in(key, k))
      if keep is None:
        cost = 1
      else:
        # Blocks that run behind the first skipped one.
        behind = jnp.cumsum(~keep, axis=1) > 0
        cost = (keep & behind).sum() / depth
      total += jnp.where(term.scale.at(at) != 1, cost, 0)
    return total

  def check(self, denoiser: Denoiser) -> None:
    """Raises InputError if `denoiser` cannot serve one of the methods."""
    if self.internal is not None:
      self.internal.check(denoiser.num_taps)
    for term in self.terms:
      term.check(denoiser.depth)

  def _evaluate(
    self, denoiser, x, t, label, key, at, scales, *, active: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array | None]:
    """The guided velocity with the terms in `active` on, and the variance."""
    weak_labels, keeps = {}, {}
    for k in active:
      term, term_key = self.terms[k], jax.random.fold_in(key, k)
      weak = term.weak_label(label, denoiser.num_classes, term_key)
      if weak is not None:
        weak_labels[k] = weak
      else:
        keeps[k] = term.keep(denoiser.depth, term_key)

    every = 1 + len(weak_labels)
    labels = jnp.stack([label, *weak_labels.values()], axis=1).reshape(-1)
    repeated = jnp.repeat(x, every, axis=0)  # image by image: 0 0 1 1 2 2
    times = jnp.full(labels.shape, t)
    sub = None
    if keeps:
      sub = SubNetworks(jnp.concatenate([*keeps.values()]), every)
    out = denoiser(repeated, times, labels, sub)

    velocity = self._refine(out, at).reshape(-1, every, *x.shape[1:])
    strong, *label_rows = jnp.moveaxis(velocity, 1, 0)
    weak = dict(zip(weak_labels, label_rows, strict=True))
    subs = iter(out.sub)
    for k, keep in keeps.items():
      refined = [self._refine(next(subs), at) for _ in range(len(keep))]
      weak[k] = sum(refined) / len(refined)
    guided = strong
    for k in active:
      difference = self.terms[k].transform(strong - weak[k])
      guided += (scales[k] - 1) * difference
    variance = out.variance
    return guided, None if variance is None else rows(variance, every)

  def _refine(self, out: DenoiserOutput, at: jax.Array) -> jax.Array:
    """Velocities of all rows, refined by IG where it is asked for."""
    if self.internal is None:
      return out.velocity
    return self.internal.refine(out, at)
