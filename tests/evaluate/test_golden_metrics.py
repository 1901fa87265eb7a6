"""Metrics of fixed features match the published evaluators."""

import numpy as np
import pytest
import reference

from evaluate.frechet import Moments, frechet_distance
from evaluate.inception_score import inception_score
from evaluate.kid import kernel_distance
from evaluate.precision_recall import precision_recall, radii

RESULTS = reference.read('fid_metrics/results.json')['results']
ADM = reference.read('fid_metrics/results_adm.json')
FRECHET = {
  'fid': ('sample', 'ref'),
  'fid_self': ('ref', 'ref'),
  'fid_few_samples': ('low_sample', 'low_ref'),
  'sfid_spatial_flattened_nhwc': ('spatial_sample_nhwc', 'spatial_ref_nhwc'),
}


@pytest.fixture(scope='module')
def inputs():
  arrays = reference.read('fid_metrics/inputs.npz')
  return {name: arrays[name].reshape(len(arrays[name]), -1) for name in arrays}


def close(golden):
  # The published code computes means in float32, which has an error of 1e-7.
  return pytest.approx(golden, rel=1e-6)


@pytest.mark.parametrize(
  ('case', 'method'),
  [(case, method) for case in FRECHET for method in RESULTS[case]],
)
def test_frechet_distance(inputs, case, method):
  sample, real = (Moments.of(inputs[name]) for name in FRECHET[case])
  golden = RESULTS[case][method]
  ours = frechet_distance(sample, real)
  if case == 'fid_self':
    assert ours == pytest.approx(golden, abs=1e-9)
  else:
    assert ours == close(golden)
    if case != 'fid_few_samples' and 'f64' in method:
      assert ours == pytest.approx(golden, rel=1e-11)


def test_moments(inputs):
  golden = reference.read('fid_metrics/stats.npz')
  for name in ('ref', 'sample'):
    ours = Moments.of(inputs[name])
    np.testing.assert_allclose(ours.mean, golden[f'mu_{name}'], rtol=1e-11)
    np.testing.assert_allclose(
      ours.covariance, golden[f'sigma_{name}'], rtol=1e-9, atol=1e-13
    )


def test_adm_frechet_distances(inputs):
  cases = {'adm_fid': 'fid', 'adm_sfid': 'sfid_spatial_flattened_nhwc'}
  for key, case in cases.items():
    sample, real = (Moments.of(inputs[name]) for name in FRECHET[case])
    assert frechet_distance(sample, real) == close(ADM[key])


@pytest.mark.parametrize('case', RESULTS['inception_score'])
def test_inception_score(inputs, case):
  splits, shuffle = case.removeprefix('splits').split('_shuffle')
  logits = inputs['logits']
  if int(shuffle):
    logits = logits[np.random.RandomState(2020).permutation(len(logits))]
  size, left = divmod(len(logits), int(splits))
  assert not left
  ours = inception_score(logits, split_size=size)
  golden = RESULTS['inception_score'][case]
  assert ours[0] == close(golden['inception_score_mean'])
  assert ours[1] == close(golden['inception_score_std'])


@pytest.mark.parametrize('size', [5000, 50])
def test_adm_inception_score(inputs, size):
  ours, _ = inception_score(inputs['logits'], split_size=size)
  assert ours == close(ADM[f'adm_inception_score_split{size}'])


def test_kernel_distance(inputs):
  ours = kernel_distance(
    inputs['sample'], inputs['ref'], subsets=20, subset_size=100, seed=2020
  )
  golden = RESULTS['kid_torch_fidelity']
  assert ours[0] == close(golden['kernel_inception_distance_mean'])
  assert ours[1] == close(golden['kernel_inception_distance_std'])


def test_precision_and_recall(inputs):
  precision, recall = precision_recall(inputs['ref'], inputs['sample'])
  assert precision == close(ADM['adm_precision_fp32_distances'])
  assert recall == close(ADM['adm_recall_fp32_distances'])
  golden = RESULTS['prec_recall_torch_fidelity_k3']
  assert precision == close(golden['precision'])
  assert recall == close(golden['recall'])
  harmonic = 2 * precision * recall / (precision + recall)
  assert harmonic == close(golden['f_score'])


def test_precision_and_recall_in_half_precision(inputs):
  """float16 sums depend on the processor, so 3 of 350 images may differ."""
  precision, recall = precision_recall(
    inputs['ref'], inputs['sample'], float16=True
  )
  for name, ours in ('precision', precision), ('recall', recall):
    golden = ADM[f'adm_{name}_fp16_distances']
    assert ours == pytest.approx(golden, abs=3 / 350)


@pytest.mark.parametrize('name', ['ref', 'sample'])
def test_radii(inputs, name):
  golden = reference.read('fid_metrics/adm_radii.npz')
  ours = radii(inputs[name])
  np.testing.assert_allclose(ours, golden[f'radii2_{name}_fp32'], rtol=5e-6)
  # Most float16 radii are equal. The other radii differ by rounding.
  half, golden = (
    radii(inputs[name], float16=True),
    golden[f'radii2_{name}_fp16'],
  )
  np.testing.assert_allclose(half, golden, rtol=1e-2)
  assert (half == golden).mean() > 0.6
  assert (ours == golden).mean() < 0.1
