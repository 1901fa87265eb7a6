import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from students import TEACHER


@pytest.fixture(scope='session')
def teacher():
  return networks.perturbed(TEACHER).params


@pytest.fixture(scope='session')
def student(teacher):
  params = {key: teacher[key] for key in teacher if key != 'tap_heads'}
  return jax.tree.map(lambda p: jnp.asarray(0.9 * np.asarray(p)), params)
