"""Counts forward passes: a wrapped network reports the cost of each call."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from networks import static

from dit.types import ClassConditional, DenoiserOutput
from guidance.parse import parse, with_guide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting(ClassConditional):
  """A denoiser with velocity -x that reports its multiply-adds at run time."""

  report: Callable[[float], None] | None = dataclasses.field(
    default=None, metadata={'static': True}
  )
  depth: int = static(6)
  num_taps: int = static(1)
  num_classes: int = static(10)
  null_label: bool = static(True)
  learned_variance: bool = static(False)
  multiply_adds: int = static(600)

  def __call__(self, x, t, label, sub=None):
    def output(rows):
      return DenoiserOutput(-rows, (rows,))

    cost, subs = jnp.float32(len(x)), ()
    if sub is not None:
      rows = x[:: sub.every]
      for keep in sub.keep:
        behind = jnp.arange(self.depth) > jnp.argmin(keep)
        cost += len(rows) * (keep & behind).sum() / self.depth
        subs += (output(rows),)
    # The cost must depend on x, or XLA could move the callback out of a branch.
    cost = cost * self.multiply_adds + 0 * x.sum()
    jax.debug.callback(self.report, cost)
    return dataclasses.replace(output(x), sub=subs)


costs = []


def report(cost):
  """Records a cost. All denoisers share this function, so JAX compiles once."""
  costs.append(float(cost))


def counted(text, run, batch):
  """Returns `run(denoiser, guidance)` and the number of passes per image."""
  denoiser = Counting(report)
  guide = Counting(report, depth=2, multiply_adds=150)
  costs.clear()
  result = run(denoiser, with_guide(parse(text), guide))
  jax.block_until_ready(result)
  jax.effects_barrier()
  return result, sum(costs) / batch / denoiser.multiply_adds
