import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from evaluate import metrics, tables
from evaluate.extractor import Extractor
from evaluate.frechet import Moments, frechet_distance
from evaluate.inception import Features
from evaluate.metrics import (
  METRICS,
  Estimate,
  Gatherer,
  MeasureConfig,
  estimate,
)

INCEPTION = Extractor(
  'Inception', None, {}, {'preprocessing': 'adm'}, is_inception=True
)
PUBLISHED = Extractor(
  'Inception', None, {}, {'preprocessing': 'adm'}, True, True
)
CLEAN = dataclasses.replace(PUBLISHED, about={'preprocessing': 'clean_fid'})
CLASSIFIER = Extractor('classifier of toys', None, {}, {}, reads_classes=True)
POSSIBLE = {'reference_rows': True, 'reference_spatial': True, 'labels': True}


def features_of(seed, n=400, shift=0.0):
  rng = np.random.default_rng(seed)
  pool, spatial, logits = (
    rng.normal(size=(n, width)).astype(np.float32) for width in (5, 4, 3)
  )
  return Features(pool + np.float32(shift), spatial + np.float32(shift), logits)


def summary_of(features, config=None, wanted=METRICS, labels=None, size=64):
  gatherer = Gatherer(config or MeasureConfig(), wanted)
  for at in range(0, len(features.pool), size):
    gatherer.add(Features(*(x[at : at + size] for x in features)))
  return gatherer.summary(labels)


def test_moments_are_those_of_all_at_once():
  features = features_of(0)
  summary = summary_of(features, size=37)
  for ours, rows in ((summary.pool, 0), (summary.spatial, 1)):
    expected = Moments.of(features[rows])
    np.testing.assert_allclose(ours.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(
      ours.covariance, expected.covariance, rtol=1e-10, atol=1e-12
    )


def test_rows_are_kept_only_where_they_are_needed():
  features = features_of(0)
  kept = lambda wanted, **options: tuple(  # noqa: E731
    rows is not None
    for rows in summary_of(features, MeasureConfig(**options), wanted).rows
  )
  assert kept(('fd', 'sfd')) == (False, False, False)
  assert kept(('precision',)) == (True, False, False)
  assert kept(('fd', 'is')) == (False, False, True)
  assert kept(('fd', 'sfd'), bootstrap=5) == (True, True, False)


def test_every_metric_of_equal_sets():
  features, labels = features_of(0), np.zeros(400, int)
  summary = summary_of(features, labels=labels)
  config = MeasureConfig(kid_subsets=5, kid_subset_size=400)
  found = metrics.measure(summary, summary, config, METRICS)
  assert found['fd'] < 1e-9
  assert found['sfd'] < 1e-9
  assert found['fd_inf'] < 0.02
  assert found['precision'] == found['recall'] == 1
  assert found['accuracy'] == (features.logits.argmax(-1) == 0).mean()
  assert 1 < found['is'] < 3


def test_standard_errors_cover_the_truth():
  """Bootstrap errors are near the standard deviation over independent sets."""
  reference = summary_of(features_of(0, 4000))
  sets = [features_of(seed, shift=0.3) for seed in range(1, 21)]
  values = [frechet_distance(Moments.of(f.pool), reference.pool) for f in sets]
  spread = np.std(values, ddof=1)
  repeated = estimate(
    [summary_of(f) for f in sets], reference, MeasureConfig(), ('fd',)
  )['fd']
  np.testing.assert_allclose(repeated.value, np.mean(values))
  np.testing.assert_allclose(repeated.error, spread / len(sets) ** 0.5)
  config = MeasureConfig(bootstrap=100)
  resampled = estimate(
    [summary_of(sets[0], config)], reference, config, ('fd', 'sfd')
  )
  assert resampled['fd'].value == pytest.approx(values[0])
  assert spread / 2 < resampled['fd'].error < spread * 2
  assert resampled['sfd'].error > 0


def test_metrics_without_a_bootstrap_have_no_error():
  config = MeasureConfig(bootstrap=3, kid_subset_size=50)
  summary = summary_of(features_of(0), config)
  found = estimate([summary], summary, config, ('fd', 'kid', 'precision'))
  assert found['fd'].error is not None
  assert found['kid'].error is found['precision'].error is None


def test_all_that_can_be_taken():
  choose, config = metrics.choose, MeasureConfig()
  expected = ('fd', 'kid', 'precision', 'recall', 'accuracy')
  assert choose(config, CLASSIFIER, **POSSIBLE) == expected
  assert choose(config, INCEPTION, **POSSIBLE) == METRICS[:6]
  nothing = dict.fromkeys(POSSIBLE, False)
  assert choose(config, INCEPTION, **nothing) == ('fd', 'is')


@pytest.mark.parametrize(('metric', 'extractor', 'lacking', 'words'), [
  ('precision', INCEPTION, 'reference_rows', 'without images'),
  ('sfd', INCEPTION, 'reference_spatial', 'mu_s'),
  ('sfd', CLASSIFIER, '', 'use Inception'),
  ('is', CLASSIFIER, '', 'use Inception'),
  ('accuracy', CLASSIFIER, 'labels', 'no labels'),
  ('accuracy', INCEPTION, '', 'reads no classes'),
])  # fmt: skip
def test_what_cannot_be_taken(metric, extractor, lacking, words):
  possible = POSSIBLE | ({lacking: False} if lacking else {})
  with pytest.raises(InputError, match=words):
    metrics.choose(MeasureConfig(metrics=(metric,)), extractor, **possible)


@pytest.mark.parametrize(
  'options', [{'metrics': ('fids',)}, {'bootstrap': 1}, {'neighbors': 0}]
)
def test_settings_are_checked(options):
  with pytest.raises(InputError, match=r'eval\.'):
    MeasureConfig(**options)


def test_features_that_are_not_finite():
  features = features_of(0)
  features.pool[7, 2] = np.nan
  with pytest.raises(InputError, match='1 of'):
    summary_of(features)


def test_only_published_weights_give_fid():
  assert metrics.name_of('fd', PUBLISHED) == 'FID'
  assert metrics.name_of('sfd', PUBLISHED) == 'sFID'
  assert metrics.name_of('fd', INCEPTION) == 'FD (Inception)'
  assert metrics.name_of('fd', CLASSIFIER) == 'FD (classifier of toys)'
  assert metrics.name_of('precision', CLASSIFIER) == 'Precision'
  assert metrics.name_of('is', INCEPTION) == 'IS (Inception)'
  assert metrics.name_of('fd', CLEAN) == 'FID (clean_fid)'


def caveats(**changes):
  values = {'extractor': PUBLISHED, 'count': 50_000, 'labels': 'random',
            'eight_bit': True, 'reference': {},
            'row': {'labels': 'random', 'num': 50_000}}  # fmt: skip
  return tables.caveats(**{**values, **changes})


@pytest.mark.parametrize(('changes', 'words'), [
  ({'count': 9_999, 'row': {}}, 'fewer than 10000'),
  ({'count': 10_000}, 'published row uses 50000'),
  ({'labels': 'balanced'}, 'Labels are balanced'),
  ({'labels': '3,5'}, 'Labels are 3,5'),
  ({'labels': 'balanced', 'row': {}}, 'Labels are balanced'),
  ({'extractor': CLASSIFIER}, 'give no FID'),
  ({'eight_bit': False}, 'float images'),
  ({'reference': {'eight_bit': False}}, 'Samples are 8-bit'),
  ({'extractor': INCEPTION}, 'not FID'),
  ({'extractor': CLEAN}, 'clean_fid'),
])  # fmt: skip
def test_caveats(changes, words):
  (found,) = caveats(**changes)
  assert words in found


def test_nothing_to_beware_of():
  assert caveats() == []
  assert caveats(labels=None) == []
  ours = {'images': 'digits:train'}
  assert caveats(labels='balanced', row={}, reference=ours) == []


def test_a_line_for_a_paper():
  estimates = {'fd': Estimate(2.0637, 0.031), 'accuracy': Estimate(0.981)}
  line = tables.format_row({'model': 'DiT'}, estimates, PUBLISHED)
  header, rule, row = line.splitlines()
  assert header == '| model | FID | Accuracy |'
  assert row == '| DiT | 2.064 ± 0.031 | 98.1% |'
  assert rule.count('---') == 3
  assert '| FID | 2.064 ± 0.031 |' in tables.format_table(estimates, PUBLISHED)


def test_logits_of_float16_features_stay_finite():
  """Moments of float16 features from a custom extractor do not overflow."""
  features = (jnp.asarray(x, jnp.float16) for x in features_of(0))
  summary = summary_of(Features(*features))
  assert np.isfinite(summary.pool.covariance).all()


def test_a_bootstrap_warns_once(caplog):
  config = MeasureConfig(bootstrap=5)
  few = summary_of(features_of(0, 4), config, ('fd',))
  estimate([few], summary_of(features_of(1)), config, ('fd',))
  assert caplog.text.count('rank-deficient') == 1


def test_rows_of_some_images():
  features, keep = features_of(0), np.arange(400) % 4 == 0
  gatherer = Gatherer(MeasureConfig(), ('fd', 'precision'))
  gatherer.add(features, keep)
  summary = gatherer.summary()
  assert summary.pool.count == 400
  np.testing.assert_array_equal(summary.rows.pool, features.pool[keep])
