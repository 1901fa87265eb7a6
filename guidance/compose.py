"""Several methods at once: one guided velocity from one pass, or few.

With IG refining every row first, and strong the conditional row:

  velocity = strong + push_label + sum of push_k over weaker networks

each push mostly (scale - 1) (strong - weak), and at the end, where asked for,

  velocity <- velocity (phi std(strong) / std(velocity) + 1 - phi)

(per image; arXiv 2305.08891, of the velocity).

The rows of the label method share one batch with the conditional rows,
interleaved image by image so that a sharded batch stays where it is. The
sub-networks start where they first differ from the conditional row. A method
whose scale at t is 1 is off: its pass is not run.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError
from dit.blocks import rows
from dit.path import expand
from dit.types import Condition, Denoiser, DenoiserOutput, SubNetworks
from guidance.base import (
  BlocksTerm,
  GuideTerm,
  LabelTerm,
  Memory,
  Place,
  Step,
  Term,
)
from guidance.network import Internal
from guidance.scale import static


class Guided(NamedTuple):
  """What guidance makes of one evaluation.

  Attributes:
    velocity: (B, H, W, C) in the precision of x.
    variance: the same shape, of the conditional row, where the network learned
      it; else None.
    memory: of the methods, for the next solver step.
    parts: where asked for, what it was made of, like velocity: 'strong', the
      conditional row as the network predicts it; 'refined', the same refined
      by IG, where it is on; and by its method's name every weak prediction.
  """

  velocity: jax.Array
  variance: jax.Array | None = None
  memory: tuple[Memory, ...] = ()
  parts: dict[str, jax.Array] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
  """A composition of methods; without any, the conditional prediction.

  For example `Guidance(Internal(Scale(1.4)), (ClassifierFree(Scale(1.35)),))`.

  Attributes:
    internal: IG, or None.
    terms: the other methods, at most one of them a LabelTerm.
    rescale: phi of the module's docstring; None for no rescaling.
    methods: names of the terms, made here: JAX takes two dataclasses of the
      same fields for one, and could draw with the program of another method.
  """

  internal: Internal | None = None
  terms: tuple[Term, ...] = ()
  rescale: float | jax.Array | None = None
  methods: tuple[str, ...] = static(())

  def __post_init__(self) -> None:
    """Checks that the methods can stand together."""
    methods = tuple(getattr(term, 'name', '') for term in self.terms)
    object.__setattr__(self, 'methods', methods)
    names = [t.name for t in self.terms if isinstance(t, LabelTerm)]
    if len(names) > 1:
      raise InputError(
        f'guidance {" and ".join(names)} both act on the label; choose one.'
      )
    if self.rescale is not None and not self.terms:
      raise InputError(
        'guidance rescale has nothing to rescale; name a method beside it '
        '(other than ig, which refines before).'
      )

  def __call__(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
  ) -> jax.Array:
    """The guided velocity, (B, H, W, C), without a memory; see `predict`."""
    return self.predict(denoiser, x, t, condition, step).velocity

  def init(self, x: jax.Array) -> tuple[Memory, ...]:
    """The memory before the first step, for states like x."""
    return tuple(term.init(x) for term in self.terms)

  def draw(
    self,
    denoiser: Denoiser,
    condition: Condition,
    key: jax.Array,
    image_keys: jax.Array,
  ) -> tuple[Any, ...]:
    """Returns the random choices of a step, one for each term.

    Args:
      denoiser: the network.
      condition: Conditions with leading axis B; None leaves out the choice of
        conditions, which changes no cost.
      key: of the step.
      image_keys: (B,), of the step for each image.
    """
    return tuple(
      term.draw(denoiser, condition, key, image_keys) for term in self.terms
    )

  def predict(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
    memory: tuple[Memory, ...] | None = None,
    *,
    parts: bool = False,
  ) -> Guided:
    """Everything that one evaluation gives.

    Args:
      denoiser: the network.
      x: (B, H, W, C).
      t: scalar in [0, 1].
      condition: Conditions with leading axis B, which only the denoiser reads.
      step: the solver's step.
      memory: what the methods carry; None at first.
      parts: whether to give them too; then no pass is left out, and scale 1
        stands for a method that is off.
    """
    memory = self.init(x) if memory is None else memory
    scales = [term.scale_at(step) for term in self.terms]
    evaluate = functools.partial(
      self._evaluate, denoiser, x, t, condition, step, memory, scales
    )
    if parts or not self.terms:
      return evaluate(active=tuple(range(len(self.terms))), parts=parts)
    # One branch for each set of terms that are on: set bits of the number.
    branches = [
      functools.partial(
        evaluate,
        active=tuple(k for k in range(len(self.terms)) if number >> k & 1),
      )
      for number in range(2 ** len(self.terms))
    ]
    number = sum(jnp.any(scale != 1) * 2**k for k, scale in enumerate(scales))
    return jax.lax.switch(number, branches)

  def at(
    self, denoiser: Denoiser, x: jax.Array, t: jax.Array, condition: Condition
  ) -> Guided:
    """Predicts as `predict` with its parts, at a time t (B,) for each image.

    For methods that draw nothing and remember nothing.
    """
    step = Step(expand(t, x), (None,) * len(self.terms))
    return self.predict(denoiser, x, t, condition, step, parts=True)

  def passes(self, denoiser: Denoiser, step: Step) -> jax.Array:
    """Cost of one evaluation, in whole passes of the conditional row."""
    total = jnp.float32(1)
    for k, term in enumerate(self.terms):
      cost: float | jax.Array = 1.0
      if isinstance(term, BlocksTerm):
        keep = step.draws[k]
        assert keep is not None
        # Blocks that run behind the first skipped one.
        behind = jnp.cumsum(~keep, axis=1) > 0
        cost = (keep & behind).sum() / denoiser.depth
      elif isinstance(term, GuideTerm):
        assert term.guide is not None
        cost = term.guide.multiply_adds / denoiser.multiply_adds
      total += jnp.where(jnp.any(term.scale_at(step) != 1), cost, 0)
    return total

  @property
  def stepwise(self) -> bool:
    """Returns whether it depends on the solver's step beside (x, t)."""
    return any(term.stepwise for term in self.terms)

  @property
  def wants_guide(self) -> bool:
    """Returns whether a method needs another network."""
    return any(isinstance(term, GuideTerm) for term in self.terms)

  @property
  def needs_ddim(self) -> bool:
    """Returns whether a method means something only with DDIM's step."""
    return any(term.needs_ddim for term in self.terms)

  @property
  def zero_steps(self) -> int:
    """The largest number of solver steps that are left out."""
    return max([term.zero_steps for term in self.terms], default=0)

  def rests(self, step: Step, n: jax.Array) -> jax.Array:
    """Returns whether step n is left out: x stays, time goes on."""
    rests = jnp.zeros((), bool)
    for term in self.terms:
      if term.zero_steps:
        # Whatever the schedule, which may begin at 1.
        scale = term.scale.inside(step.at, term.scale.value)
        rests |= (n < term.zero_steps) & (scale != 1)
    return rests

  def check(
    self, denoiser: Denoiser, shape: tuple[int, int, int] | None = None
  ) -> None:
    """Raises InputError if a network, of latents (H, W, C), cannot serve."""
    if self.internal is not None:
      self.internal.check(denoiser)
    for term in self.terms:
      term.check(denoiser)
      if shape is not None:
        term.check_shape(shape)

  def _evaluate(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
    memory: tuple[Memory, ...],
    scales: Sequence[jax.Array],
    *,
    active: Sequence[int],
    parts: bool = False,
  ) -> Guided:
    """One evaluation with the terms in `active` on."""
    on = {k: self.terms[k] for k in active}
    out, strong, weak = self._pass(denoiser, x, t, condition, step, on)
    guided, place = strong, Place(x, t, step.path)
    memory_next = list(self.init(x))
    for k, term in on.items():
      push, memory_next[k] = term.push(
        strong, weak[k], scales[k], place, memory[k]
      )
      guided += push
    if active and self.rescale is not None:
      ratio = _std(strong) / jnp.maximum(_std(guided), 1e-30)
      guided *= self.rescale * ratio + (1 - self.rescale)
    made_of = {'strong': out.velocity}
    if self.internal is not None:
      tap = out.intermediate[self.internal.tap]
      made_of |= {self.internal.name: tap, 'refined': strong}
    made_of |= {term.name: weak[k] for k, term in on.items()}
    return Guided(
      guided, out.variance, tuple(memory_next), made_of if parts else {}
    )

  def _pass(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
    on: dict[int, Term],
  ) -> tuple[DenoiserOutput, jax.Array, dict[int, jax.Array]]:
    """Runs the networks for some terms, by their numbers.

    Returns:
      What the network predicts in the conditional rows, their refined velocity,
      and the weak prediction of each term, all (B, H, W, C).
    """
    conditions = {
      k: term.weak_condition(denoiser, condition, step.draws[k])
      for k, term in on.items()
      if isinstance(term, LabelTerm)
    }
    every = 1 + len(conditions)
    keeps = {
      k: keep
      for k, term in on.items()
      if isinstance(term, BlocksTerm) and (keep := step.draws[k]) is not None
    }
    sub = None
    if keeps:
      sub = SubNetworks(jnp.concatenate([*keeps.values()]), every)
    repeated = jnp.repeat(x, every, axis=0)  # image by image: 0 0 1 1 2 2
    times = jnp.repeat(jnp.broadcast_to(t, len(x)), every)
    rowwise = jax.tree.map(
      lambda *leaves: jnp.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:]),
      condition,
      *conditions.values(),
    )
    out = denoiser(repeated, times, rowwise, sub)

    refine = functools.partial(self._refine, step=step, dtype=x.dtype)
    at = jnp.repeat(step.at, every, axis=0) if jnp.ndim(step.at) else step.at
    of_rows = dataclasses.replace(step, at=at)
    velocity = refine(out, step=of_rows).reshape(-1, every, *x.shape[1:])
    strong, *weak_rows = jnp.moveaxis(velocity, 1, 0)
    weak = dict(zip(conditions, weak_rows, strict=True))
    subs = map(refine, out.sub)
    for k, keep in keeps.items():
      total = sum(itertools.islice(subs, len(keep)), jnp.zeros((), x.dtype))
      weak[k] = total / len(keep)
    for k, term in on.items():
      if isinstance(term, GuideTerm):
        assert term.guide is not None
        weak[k] = refine(
          term.guide(x, rows(times, every), condition),
          num_taps=term.guide.num_taps,
        )
    own = DenoiserOutput(out.velocity, out.intermediate, out.variance)
    return jax.tree.map(lambda leaf: rows(leaf, every), own), strong, weak

  def _refine(
    self,
    out: DenoiserOutput,
    *,
    step: Step,
    dtype: jnp.dtype,
    num_taps: int | None = None,
  ) -> jax.Array:
    """Velocities of all rows, refined by IG where it is asked for.

    A guide, of `num_taps`, that lacks the tap stays as it is.
    """
    velocity, internal = out.velocity.astype(dtype), self.internal
    if internal is None or (num_taps is not None and num_taps <= internal.tap):
      return velocity
    return internal.refine(velocity, out, step)


def _std(x: jax.Array) -> jax.Array:
  return jnp.std(x, axis=(1, 2, 3), keepdims=True)
