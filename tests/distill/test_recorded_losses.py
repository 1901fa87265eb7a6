"""Losses of recipes without newer options equal the recorded losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from students import TEACHER, make_distillation

from dit import model

KEY = jax.random.key(5)
LABEL = jnp.arange(8) % 3
CFG = {'guidance': 'cfg:1.5'}
EULER = {'query': 'student_trajectory', 'solver': 'euler'}
# Per recipe: options of `distill`, loss of the fake, and loss of the student.
RECORDED = {
  'full': ({**CFG, 'schedule': 'full'}, 2.361980676651001,
           6.162685167510062e-05),
  'dm': ({}, 2.361980676651001, 5.9539120229601394e-06),
  'shared': ({**CFG, 'schedule': 'shared', 'normalizer': 'guided'},
             2.361980676651001, 6.244351243367419e-05),
  'constrained': ({**CFG, 'schedule': 'constrained', 'shift': 3.0},
                  2.4196624755859375, 7.313211972359568e-05),
  'hybrid': ({'guidance': 'ig:1.3,cfg:1.5', 'schedule': 'hybrid'},
             2.361980676651001, 0.012199497781693935),
  'sharing': ({**CFG, **EULER, 'normalizer': 'guided'},
              2.2438554763793945, 0.04159309342503548),
  'grid': ({**CFG, 'query': 'grid'}, 1.5973774194717407, 9.862984006758779e-05),
  'low': ({**CFG, **EULER, 'branch': 'low'}, 2.2438554763793945,
          0.04257606342434883),
}  # fmt: skip
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in [*RECORDED][1:]]


@pytest.fixture(scope='module')
def teacher():

  @jax.jit
  def make():
    params = model.init(TEACHER, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
      leaf + 0.1 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)

  return make()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['full', *SLOW])
def test_losses_of_other_recipes_are_as_recorded(name, teacher):
  given, of_fake, of_student = RECORDED[name]
  distillation = make_distillation(**given)
  student = {key: teacher[key] for key in teacher if key != 'tap_heads'}
  student = jax.tree.map(lambda p: 0.9 * np.asarray(p), student)
  fake = {'network': jax.tree.map(lambda p: 1.1 * p, student)}
  given = fake, student, teacher, LABEL, None, KEY
  loss, _ = jax.jit(distillation.fake_loss)(*given)
  assert float(loss) == pytest.approx(of_fake, rel=1e-5)
  given = student, fake, teacher, LABEL, KEY
  loss, _ = jax.jit(distillation.student_loss)(*given)
  assert float(loss) == pytest.approx(of_student, rel=1e-4)
