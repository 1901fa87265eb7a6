"""Composes several methods into one guided velocity.

IG acts first, on every row of the batch. If `strong` is the velocity of the
conditional row after IG,

  velocity = strong + push_label + sum of push_k over weaker networks

Optional rescaling follows (arXiv 2305.08891, applied to each image's velocity):

  velocity <- velocity (phi std(strong) / std(velocity) + 1 - phi)

The rows of the label method share one batch with the conditional rows. Both
kinds of rows alternate, so all rows of an image stay on one device. Up to its
first skipped block, a sub-network reuses the activations of the full network.
A method with scale 1 at time t runs no pass at time t.
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
  Contrast,
  GuideTerm,
  LabelTerm,
  Memory,
  Step,
  Term,
)
from guidance.network import Internal
from guidance.scale import static


class Guided(NamedTuple):
  """The result of one guided evaluation.

  Attributes:
    velocity: Guided velocity (B, H, W, C) in the precision of x.
    variance: Learned variance (B, H, W, C) of the conditional rows, or None.
    memory: Memory of each method, for the next solver step.
    parts: Predictions that form the velocity, if requested: 'strong' for the
      conditional row before IG, 'refined' for the conditional row after IG, and
      the name of each method for the method's weak prediction.
  """

  velocity: jax.Array
  variance: jax.Array | None = None
  memory: tuple[Memory, ...] = ()
  parts: dict[str, jax.Array] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
  """A composition of methods; without methods, the network's own prediction.

  Example: `Guidance(Internal(Scale(1.4)), (ClassifierFree(Scale(1.35)),))`.

  Attributes:
    internal: IG, or None.
    terms: Other methods, at most one of them a LabelTerm.
    rescale: Weight phi of rescaling; None for no rescaling.
    methods: Names of the terms. Without the names, JAX would reuse the compiled
      program of another method with equal fields.
  """

  internal: Internal | None = None
  terms: tuple[Term, ...] = ()
  rescale: float | jax.Array | None = None
  methods: tuple[str, ...] = static(())

  def __post_init__(self) -> None:
    methods = tuple(getattr(term, 'name', '') for term in self.terms)
    object.__setattr__(self, 'methods', methods)
    names = [t.name for t in self.terms if isinstance(t, LabelTerm)]
    if len(names) > 1:
      raise InputError(
        f'guidance {" and ".join(names)} both act on the label; choose one.'
      )
    if (
      self.internal is not None
      and self.internal.null is not None
      and not any(term.uses_null for term in self.terms)
    ):
      raise InputError(
        'guidance ig sets null, the scale of the null rows, but no method '
        'evaluates the null condition; add one such as cfg, or leave null out.'
      )
    if self.rescale is not None and not self.terms:
      raise InputError(
        'guidance rescale has nothing to rescale; add a method other than '
        'ig, which acts before rescaling.'
      )

  def __call__(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
  ) -> jax.Array:
    """Returns the velocity (B, H, W, C) that `predict` gives without memory."""
    return self.predict(denoiser, x, t, condition, step).velocity

  def init(self, x: jax.Array) -> tuple[Memory, ...]:
    """Returns each method's memory for the first step; x is a state."""
    return tuple(term.init(x) for term in self.terms)

  def draw(
    self,
    denoiser: Denoiser,
    condition: Condition,
    key: jax.Array,
    image_keys: jax.Array,
  ) -> tuple[Any, ...]:
    """Returns each term's random choices for a step.

    Args:
      denoiser: Network.
      condition: Conditions with leading axis B; None to choose only blocks.
      key: Random key of the step.
      image_keys: Random keys (B,) of the step, one for each image.
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
    """Evaluates the guided velocity, variance and memory at (x, t).

    Args:
      denoiser: Network.
      x: State (B, H, W, C).
      t: Scalar time in [0, 1].
      condition: Conditions with leading axis B, which only the denoiser reads.
      step: Solver step.
      memory: Memory of the methods; None at the first step.
      parts: Whether to run every pass and return `Guided.parts`.
    """
    memory = self.init(x) if memory is None else memory
    scales = [term.scale_at(step) for term in self.terms]
    evaluate = functools.partial(
      self._evaluate, denoiser, x, t, condition, step, memory, scales
    )
    if parts or not self.terms:
      return evaluate(active=tuple(range(len(self.terms))), parts=parts)
    # Branch `number` runs term k if bit k of `number` is set.
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
    """Calls `predict` with parts=True; t (B,) holds one time for each image.

    The methods must have neither random choices nor memory.
    """
    step = Step(expand(t, x), (None,) * len(self.terms))
    return self.predict(denoiser, x, t, condition, step, parts=True)

  def passes(self, denoiser: Denoiser, step: Step) -> jax.Array:
    """Returns the cost of an evaluation in units of one conditional pass."""
    total = jnp.float32(1)
    for k, term in enumerate(self.terms):
      cost: float | jax.Array = 1.0
      if isinstance(term, BlocksTerm):
        mask = step.draws[k]
        assert mask is not None
        # The cost counts the blocks that run after the first skipped block.
        is_later = jnp.cumsum(~mask, axis=1) > 0
        cost = (mask & is_later).sum() / denoiser.depth
      elif isinstance(term, GuideTerm):
        assert term.guide is not None
        cost = term.guide.multiply_adds / denoiser.multiply_adds
      total += jnp.where(jnp.any(term.scale_at(step) != 1), cost, 0)
    return total

  @property
  def stepwise(self) -> bool:
    """Returns whether a method needs the solver step as well as (x, t)."""
    return any(term.stepwise for term in self.terms)

  @property
  def wants_guide(self) -> bool:
    """Returns whether a method needs another network."""
    return any(isinstance(term, GuideTerm) for term in self.terms)

  @property
  def needs_ddim(self) -> bool:
    """Returns whether a method is defined only for DDIM steps."""
    return any(term.needs_ddim for term in self.terms)

  @property
  def zero_steps(self) -> int:
    """Largest number of initial steps for which a method leaves x unchanged."""
    return max([term.zero_steps for term in self.terms], default=0)

  def rests(self, step: Step, n: jax.Array) -> jax.Array:
    """Returns whether step n leaves x unchanged."""
    rests = jnp.zeros((), bool)
    for term in self.terms:
      if term.zero_steps:
        # The schedule is ignored, since a schedule may start at scale 1.
        scale = term.scale.inside(step.at, term.scale.value)
        rests |= (n < term.zero_steps) & (scale != 1)
    return rests

  def check(
    self, denoiser: Denoiser, shape: tuple[int, int, int] | None = None
  ) -> None:
    """Raises InputError if a method cannot use the network or latent shape."""
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
    """Evaluates the guided velocity with only the terms at indices `active`."""
    selection = {k: self.terms[k] for k in active}
    out, strong, weak = self._pass(denoiser, x, t, condition, step, selection)
    velocity = strong
    memory_next = list(self.init(x))
    for k, term in selection.items():
      push, memory_next[k] = term.push(
        Contrast(strong, weak[k], scales[k], x, t, step.path, memory[k])
      )
      velocity += push
    if active and self.rescale is not None:
      ratio = _std(strong) / jnp.maximum(_std(velocity), 1e-30)
      velocity *= self.rescale * ratio + (1 - self.rescale)
    components = {'strong': out.velocity}
    if self.internal is not None:
      tap = out.intermediate[self.internal.tap]
      components |= {self.internal.name: tap, 'refined': strong}
    components |= {term.name: weak[k] for k, term in selection.items()}
    return Guided(
      velocity, out.variance, tuple(memory_next), components if parts else {}
    )

  def _pass(
    self,
    denoiser: Denoiser,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    step: Step,
    selection: dict[int, Term],
  ) -> tuple[DenoiserOutput, jax.Array, dict[int, jax.Array]]:
    """Returns the conditional output, strong velocity and weak velocities."""
    conditions = {
      k: term.weak_condition(denoiser, condition, step.draws[k])
      for k, term in selection.items()
      if isinstance(term, LabelTerm)
    }
    count = 1 + len(conditions)
    masks = {
      k: mask
      for k, term in selection.items()
      if isinstance(term, BlocksTerm) and (mask := step.draws[k]) is not None
    }
    sub = None
    if masks:
      sub = SubNetworks(jnp.concatenate([*masks.values()]), count)
    states = jnp.repeat(
      x, count, axis=0
    )  # the rows of image 0, then of image 1, ...
    times = jnp.repeat(jnp.broadcast_to(t, len(x)), count)
    row_inputs = jax.tree.map(
      lambda *leaves: jnp.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:]),
      condition,
      *conditions.values(),
    )
    out = denoiser(states, times, row_inputs, sub)

    refine = functools.partial(self._refine, step=step, dtype=x.dtype)
    output = DenoiserOutput(out.velocity, out.intermediate, out.variance)
    conditional, *others = (
      jax.tree.map(functools.partial(rows, every=count, start=start), output)
      for start in range(count)
    )
    strong = refine(conditional)
    weak = {
      k: refine(row, null=selection[k].uses_null)
      for k, row in zip(conditions, others, strict=True)
    }
    subs = map(refine, out.sub)
    for k, mask in masks.items():
      total = sum(itertools.islice(subs, len(mask)), jnp.zeros((), x.dtype))
      weak[k] = total / len(mask)
    for k, term in selection.items():
      if isinstance(term, GuideTerm):
        assert term.guide is not None
        weak[k] = refine(
          term.guide(x, rows(times, count), condition),
          num_taps=term.guide.num_taps,
        )
    return conditional, strong, weak

  def _refine(
    self,
    out: DenoiserOutput,
    *,
    step: Step,
    dtype: jnp.dtype,
    num_taps: int | None = None,
    null: bool = False,
  ) -> jax.Array:
    """Refines rows with IG; leaves a guide without the tap unchanged."""
    velocity, term = out.velocity.astype(dtype), self.internal
    if term is None or (num_taps is not None and num_taps <= term.tap):
      return velocity
    return term.refine(velocity, out, step, null=null)


def _std(x: jax.Array) -> jax.Array:
  return jnp.std(x, axis=(1, 2, 3), keepdims=True)
