"""Tests `evaluate`, `reference` and `train-features` on a tiny run."""

import json

import numpy as np
import pytest
from command_runs import refusal, succeed

from input_pipeline.sources import DataConfig, load_all, open_source

FAST = ('--config.eval.kid_subsets=5', '--config.eval.kid_subset_size=20')


@pytest.fixture(scope='module')
def place(shared_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('evaluate')
  data = DataConfig('digits', str(shared_run / 'data'), 'train', 'test', 1, 2)
  for split in ('train', 'test'):
    images, labels = load_all(open_source(data, split))
    np.savez(folder / f'{split}.npz', images, labels)
  return folder


def results(folder):
  return json.loads((folder / 'evaluation.json').read_text())


def evaluate(*argv):
  return succeed('evaluate', *FAST, *argv)


def test_images_against_images(place, mine):
  common = (mine, f'--reference={place}/train.npz')
  shape = (300, 8, 8, 1)
  noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  np.savez(place / 'noise.npz', noise)
  evaluate(f'--samples={place}/test.npz', *common, f'--out={place}/near')
  noise = f'--samples={place}/noise.npz'
  result = evaluate(noise, *common, f'--out={place}/far')
  near, far = results(place / 'near'), results(place / 'far')
  assert near['metrics']['fd'] < 0.05 * far['metrics']['fd']
  assert near['metrics']['precision'] > 0.8 > 0.1 > far['metrics']['precision']
  assert near['images_of_each_set'] == 500
  assert near['evaluation']['reference']['count'] == 1297
  assert near['names']['fd'] == 'FD (mine:moments)'
  assert 'FID' not in result.out
  assert 'fewer than 10000' in result.err
  line = (place / 'far/evaluation.md').read_text()
  assert line.rstrip() in result.out
  assert 'accuracy' not in far['metrics']  # Accuracy needs logits.


def test_a_reference_serves_as_its_images_do(place, mine):
  target = place / 'statistics.npz'
  words = ('reference', mine, f'--images={place}/train.npz', f'--to={target}')
  assert '1297 images' in succeed(*words).out
  samples = f'--samples={place}/test.npz'
  evaluate(samples, mine, f'--reference={target}', f'--out={place}/a')
  evaluate(samples, mine, f'--reference={place}/train.npz', f'--out={place}/b')
  ours, theirs = (results(place / name)['metrics'] for name in 'ab')
  assert ours == pytest.approx(theirs, rel=1e-9)
  about = results(place / 'a')['evaluation']['reference']
  assert about['images'].endswith('train.npz') and len(about['sha256']) == 64
  assert 'new file' in refusal(*words)
  twice = ('reference', mine, f'--images={target}', f'--to={place}/t.npz')
  assert 'statistics already' in refusal(*twice)


def test_adm_layout_with_images(place, mine):
  """Precision, recall and KID need stored images. FD needs only statistics."""
  with np.load(place / 'train.npz') as arrays:
    images = arrays['arr_0'][:200]
  np.savez(place / 'adm.npz', mu=np.zeros(8), sigma=np.eye(8), arr_0=images)
  np.savez(place / 'bare.npz', mu=np.zeros(8), sigma=np.eye(8))
  samples = (f'--samples={place}/test.npz', mine)
  evaluate(*samples, f'--reference={place}/adm.npz', f'--out={place}/c')
  found = results(place / 'c')['metrics']
  assert {'fd', 'precision', 'recall', 'kid'} <= set(found)
  bare = (*samples, f'--reference={place}/bare.npz')
  evaluate(*bare, f'--out={place}/d')
  assert set(results(place / 'd')['metrics']) == {'fd'}
  said = refusal('evaluate', *bare, '--metrics=fid,recall')
  assert 'statistics only, without images' in said


def test_repeats_and_bootstrap(place, mine):
  common = (
    f'--samples={place}/test.npz', mine, f'--reference={place}/train.npz',
    '--metrics=fid,precision',
  )  # fmt: skip
  result = evaluate(*common, '--repeats=4', f'--out={place}/r')
  repeated = results(place / 'r')
  assert repeated['images_of_each_set'] == 125
  assert repeated['metrics']['precision_se'] > 0
  assert '4 disjoint sets' in result.out and '4 x 125' in result.out
  evaluate(*common, '--bootstrap=20', f'--out={place}/s')
  resampled = results(place / 's')['metrics']
  assert resampled['fd_se'] > 0 and 'precision_se' not in resampled
  assert 'change --repeats' in refusal('evaluate', *common, '--repeats=300')


def test_sets_of_sorted_images_are_alike(place, mine):
  """`--repeats` shuffles images, because files may be sorted by class."""
  with np.load(place / 'test.npz') as arrays:
    order = np.argsort(arrays['arr_1'], kind='stable')
    np.savez(place / 'sorted.npz', *(x[order] for x in arrays.values()))
  values = []
  for name in ('test', 'sorted'):
    out = place / f'dealt-{name}'
    evaluate(
      f'--samples={place}/{name}.npz', mine, f'--reference={place}/train.npz',
      '--metrics=fid', '--repeats=2', '--num=200', f'--out={out}',
    )  # fmt: skip
    values.append(results(out)['metrics']['fd'])
  mixed, by_class = values
  assert by_class < 5 * mixed  # Unshuffled halves would lack classes.


def test_results_are_not_overwritten_by_others(place, mine):
  common = (
    f'--samples={place}/test.npz', mine, f'--reference={place}/train.npz',
    f'--out={place}/kept', '--metrics=fid',
  )  # fmt: skip
  evaluate(*common)
  evaluate(*common)
  assert not (place / 'kept/evaluation-2.json').exists()
  result = evaluate(*common, '--num=300')
  assert (place / 'kept/evaluation-2.json').exists()
  assert 'evaluation-2.md' in result.out
  assert results(place / 'kept')['images_of_each_set'] == 500


def test_a_folder_of_weights_has_no_data(shared_run, place):
  weights = place / 'weights'
  succeed('convert', f'--from={shared_run}/run', f'--to={weights}')
  said = refusal('evaluate', f'--folder={weights}', '--num=48')
  assert '--extractor is needed' in said


def test_straight_from_a_run(shared_run, place, mine):
  drawn = (f'--workdir={shared_run}/run', '--guidance=ig:1.5', '--seed=3',
           '--num=48')  # fmt: skip
  evaluate(*drawn, mine, f'--out={place}/run')
  succeed('sample', *drawn, f'--out={place}/images')
  result = evaluate(
    f'--samples={place}/images/samples.npz', mine,
    f'--reference={place}/train.npz', f'--out={place}/read',
  )  # fmt: skip
  ours, theirs = results(place / 'run'), results(place / 'read')
  assert ours['metrics'] == pytest.approx(theirs['metrics'], rel=1e-5)
  assert ours['evaluation']['reference']['place'] == 'digits:train'
  for found in (ours, theirs):  # These values are in samples.json.
    assert found['samples']['guidance'] == 'ig:1.5'
    assert found['samples']['nfe_per_image'] == 3
    assert len(found['samples']['weights_sha256']) == 64
  assert '| ema | ig:1.5 | euler | 3 | 3 | balanced | 48 |' in result.out
  assert not list((place / 'run').glob('*.npz'))


@pytest.mark.slow
@pytest.mark.usefixtures('good_compilation')
def test_own_features(shared_run, place):
  data = f'--config.data.dir={shared_run}/data'
  succeed('train-features', data, f'--to={place}/features', '--steps=40')
  result = evaluate(
    f'--workdir={shared_run}/run', '--num=48',
    f'--extractor=classifier:{place}/features', f'--out={place}/own',
    '--metrics=fd,accuracy',
  )  # fmt: skip
  found = results(place / 'own')
  assert set(found['metrics']) == {'fd', 'accuracy'}
  assert 'FD (classifier of digits)' in result.out
  assert found['evaluation']['extractor']['held_out_accuracy'] > 0.5


@pytest.mark.parametrize(('argv', 'words'), [
  (('--extractor=inception:no.pth',), 'published weights are at https://'),
  (('--extractor=inception',), 'download https://'),
  (('--extractor=incepton:x',), 'expected inception:FILE'),
  (('--extractor=classifier:nothing',), 'train-features'),
  (('--metrics=fid,sfids',), 'sfids'),
  (('--preprocessing=tf',), 'pytorch_fid'),
  (('--guidance=ig:1.5',), '--guidance is for sampling'),
  (('--num=501',), 'holds 500 images, not 1 sets of 501'),
  (('--num=1',), 'not 1 sets of 2'),
  (('--num=3', '--metrics=recall'), 'too few for recall'),
  (('--metrics=is',), 'use Inception'),
  (('--reference=edm2.pkl',), 'is a pickle'),
  (('--bootstrap=1',), 'at least 2'),
  (('--reference=nothing.npz',), 'do not exist'),
])  # fmt: skip
def test_bad_input(place, mine, argv, words):
  said = refusal('evaluate', f'--samples={place}/test.npz', mine,
                 f'--reference={place}/train.npz', *argv)  # fmt: skip
  assert words in said and said.count('main.py:') == 1


@pytest.mark.parametrize(('argv', 'words'), [
  ((), '--extractor is needed'),
  (('--extractor=mine.py:moments',), '--reference (--images'),
  (('--reference=a.npz',), '--extractor is needed'),
])  # fmt: skip
def test_images_of_others_say_nothing_of_the_data(place, argv, words):
  assert words in refusal('evaluate', f'--samples={place}/test.npz', *argv)


def test_a_preset_brings_its_row(place, mine):
  result = evaluate(
    f'--samples={place}/test.npz', mine, f'--reference={place}/train.npz',
    '--preset=sit_xl_ig_cfg', '--metrics=fid', f'--out={place}/preset',
  )  # fmt: skip
  assert 'Published: FID 1.46' in result.out
  assert 'published row uses 50000' in result.err
