import numpy as np
import pytest

from core.errors import InputError
from dit.path import path_named
from sample.ddpm import discrete_grid
from sample.grid import SPACINGS, make_grid


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('shift', [0.3, 1.0, 3.0])
@pytest.mark.parametrize('last', [0.0, 0.04])
@pytest.mark.parametrize('steps', [2, 7, 250])
def test_from_noise_to_data(steps, last, shift, spacing):
  grid = make_grid(steps, shift=shift, last_step_size=last, spacing=spacing)
  assert grid.shape == (steps + 1,) and grid.dtype == np.float64
  # The spacing `edm` starts at noise level 80, where t is below 1.
  assert grid[0] == 1 or (spacing == 'edm' and 0.9 < grid[0] < 1)
  assert grid[-1] == 0
  assert (np.diff(grid) < 0).all()


@pytest.mark.parametrize(('steps', 'options', 'expected'), [
  (4, {}, [1, 0.75, 0.5, 0.25, 0]),
  (1, {}, [1, 0]),
  (4, {'last_step_size': 0.1}, [1, 0.7, 0.4, 0.1, 0]),
  (2, {'last_step_size': 0.1}, [1, 0.1, 0]),
  # A shift of 3 moves t = 0.75, 0.5 and 0.25 to 3 t / (1 + 2 t).
  (4, {'shift': 3}, [1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0]),
  # A shift of 1 / 3 mirrors the grid above, so more steps are near the data.
  (4, {'shift': 1 / 3}, [1, 1 - 0.75 / 1.5, 1 - 1.5 / 2, 1 - 2.25 / 2.5, 0]),
  (4, {'spacing': 'cosine'},
   [1, np.sin(np.pi * 3 / 8), np.sqrt(0.5), np.sin(np.pi / 8), 0]),
  (4, {'spacing': 'quadratic'}, [1, 9 / 16, 1 / 4, 1 / 16, 0]),
  # The shift is applied to the times of the spacing.
  (4, {'spacing': 'quadratic', 'shift': 3},
   [1, (27 / 16) / (34 / 16), 0.75 / 1.5, (3 / 16) / (18 / 16), 0]),
])  # fmt: skip
def test_times(steps, options, expected):
  grid = make_grid(steps, **options)
  np.testing.assert_allclose(grid, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['linear', 'cosine', 'vp', 'discrete'])
def test_karras(name):
  path, n = path_named(name), 12
  grid = make_grid(n, spacing='karras', path=path)
  assert grid[0] == 1 and grid[-1] == 0 and (np.diff(grid) < 0).all()
  # The ends are t = 1 and 0. Inner noise levels use i / n, not i / (n - 1).
  i = np.arange(1, n)
  expected = (80 ** (1 / 7) + i / n * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  inside = grid[1:-1]
  ratio = np.asarray(path.sigma(inside) / path.alpha(inside))
  np.testing.assert_allclose(ratio, expected, rtol=2e-3)


@pytest.mark.parametrize('name', ['linear', 'cosine', 'vp', 'discrete'])
@pytest.mark.parametrize('steps', [1, 2, 18])
def test_edm_is_equation_5(name, steps):
  path = path_named(name)
  grid = make_grid(steps, spacing='edm', path=path)
  i = np.arange(steps) / max(steps - 1, 1)
  sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  assert len(grid) == steps + 1 and grid[-1] == 0
  if name == 'linear':  # The linear grid is exact in float64.
    np.testing.assert_allclose(grid[:-1], sigma / (1 + sigma), rtol=1e-14)
  ratio = np.asarray(path.sigma(grid[:-1]) / path.alpha(grid[:-1]))
  np.testing.assert_allclose(ratio, sigma, rtol=2e-3)


def test_edm_ends_at_its_smallest_noise_level():
  # The last nonzero noise level of `edm` is 0.002, as in table 1 of the EDM
  # paper, for any `last_step_size`.
  for last in (0.0, 0.04):
    before = make_grid(18, spacing='edm', last_step_size=last)[-2]
    np.testing.assert_allclose(before / (1 - before), 0.002)
  # The last nonzero noise level of `karras` is higher.
  before = make_grid(18, spacing='karras')[-2]
  np.testing.assert_allclose(before / (1 - before), 0.0070, atol=5e-5)


def test_listed_times():
  grid = make_grid(
    250, spacing='1,0.8,.3, 1e-3,0', shift=3.0, last_step_size=0.1
  )
  np.testing.assert_array_equal(grid, [1, 0.8, 0.3, 0.001, 0])
  assert grid.dtype == np.float64
  np.testing.assert_array_equal(make_grid(1, spacing='1,0'), [1, 0])


@pytest.mark.parametrize(
  'spacing',
  ['1,0.8', '0.9,0', '1,0.5,0.5,0', '1,0.3,0.5,0', '1,x,0', '1,nan,0', ',',
   '1,,0', '1,-0.1,0', '1,inf,0', '2,1,0'],
)  # fmt: skip
def test_times_that_are_no_grid(spacing):
  message = 'expected decreasing times from 1 to 0.*uniform, cosine, quadratic'
  with pytest.raises(InputError, match=message) as error:
    make_grid(4, spacing=spacing)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(('steps', 'changes', 'message'), [
  (4, {'spacing': 'cosin'}, "spacing is 'cosin'.*mean 'cosine'"),
  (4, {'spacing': '1'}, 'expected one of uniform, cosine, quadratic, karras'),
  (100_001, {}, 'expected an integer from 1 to 100,000'),
  (4, {'shift': float('nan')}, 'shift is nan'),
  (4, {'shift': float('inf')}, 'shift is inf'),
  (4, {'last_step_size': float('nan')}, 'last_step_size is nan'),
  (0, {}, 'steps is 0'),
  (4, {'shift': 0}, 'shift is 0'),
  (4, {'shift': -1}, 'shift is -1'),
  (4, {'last_step_size': 1.0},
   'last_step_size is 1.0, expected a number from 0 to 0.999'),
  (4, {'last_step_size': -0.1}, 'last_step_size is -0.1'),
  (1, {'last_step_size': 0.1}, 'sample.steps is 1'),
])  # fmt: skip
def test_errors(steps, changes, message):
  with pytest.raises(InputError, match=message):
    make_grid(steps, **changes)


@pytest.mark.parametrize(('respacing', 'steps'), [
  ('1', [0]),
  ('4', [0, 333, 666, 999]),
  ('ddim4', [0, 250, 500, 750]),
  ('2,1', [0, 499, 500]),
  ('1000', range(1000)),
])  # fmt: skip
def test_discrete_grid(respacing, steps):
  grid = discrete_grid(respacing)
  np.testing.assert_allclose(grid, [*(np.array(steps)[::-1] + 1) / 1000, 0])


@pytest.mark.parametrize(('respacing', 'message'), [
  ('', "expected '250'"),
  ('ten', "expected '250'"),
  ('ddim', "expected '250'"),
  ('ddim7.5', "expected '250'"),
  ('0', 'expected 1 to 1000'),
  ('1001', 'expected 1 to 1000'),
  ('-5', 'expected 1 to 1000'),
  ('1,501', 'of the 500 steps of part 2'),
  ('ddim300', 'no stride divides 1000 steps into 300'),
  ('ddim0', 'no stride'),
])  # fmt: skip
def test_discrete_grid_errors(respacing, message):
  with pytest.raises(InputError, match=message):
    discrete_grid(respacing)
