"""Tests a latent run, from image files to the commands in the report.

The autoencoder is tiny and random. Only `prepare` gets the autoencoder's path.
"""

import html
import json
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_runs import printed, run
from PIL import Image
from safetensors.numpy import load_file, save_file

from commands.explore.explorer import Explorer
from commands.sample_job import SampleRequest
from dit import autoencoder
from input_pipeline import sources
from sample import decoder, load
from train.runs import Source

CLASSES = ('2', 'golden retriever', 'tench, Tinca tinca')
FEW = {
  'model.depth': 2,
  'model.width': 16,
  'model.num_heads': 2,
  'model.taps': (1,),
  'train.images': 16,
  'train.batch_size': 16,
  'checkpoint.every_images': 16,
  'log.every_images': 16,
  'log.preview_every_images': 16,
  'log.preview_num': 16,
  'log.preview_guidance': 'none',
  'sample.steps': 2,
  'sample.batch_size': 16,
  'eval.every_images': 16,
  'eval.num': 16,
}
COMPARE = ('--bootstrap=2',)
MINE = """
def means(x):
  return x.reshape(len(x), 4, 4, 4, 4, 3).mean((2, 4, 5)).reshape(len(x), -1)
"""


def write_autoencoder(folder, seed=0):
  folder.mkdir(exist_ok=True)
  config = autoencoder.TinyConfig(latent_channels=4, width=4)
  rng = np.random.default_rng(seed)
  for half, shapes in autoencoder.shapes(config).items():
    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
      words = [str(entry.key) for entry in path if entry.key != 'layers']
      values = 0.15 * rng.standard_normal(leaf.shape, np.float32)
      if words[-1] == 'kernel':
        values = values.transpose(3, 2, 0, 1)
      words[-1] = 'bias' if words[-1] == 'bias' else 'weight'
      tensors['.'.join(words)] = np.ascontiguousarray(values)
    save_file(tensors, folder / f'taesd_{half}.safetensors')


def write_images(folder):
  rng = np.random.default_rng(0)
  for split, count in (('train', 10), ('test', 4)):
    for k, name in enumerate(CLASSES):
      (folder / split / name).mkdir(parents=True)
      for i in range(count):
        values = rng.integers(128, size=(16, 16, 3)) + 40 * k
        Image.fromarray(np.uint8(values)).save(
          folder / split / name / f'{i}.png'
        )


def succeed(*words):
  result = run(*words)
  assert result.status == 0, (words, result.err)
  return result


def short():
  return [
    f'--config.{key}={value}'
    for key, value in FEW.items()
    if key.startswith('sample')
  ]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with latent records, a run and a trained feature classifier."""
  place = tmp_path_factory.mktemp('a place')
  (place / 'mine.py').write_text(MINE)
  write_autoencoder(place / 'tiny vae')
  write_images(place / 'images')
  where = [
    '--config=configs/sit.py:Tiny/1,ig', '--config.data.name=animals',
    f'--config.data.dir={place}/data',
    '--image_size=16', '--batch_size=16',
    '--config.data.test_split=test',
  ]  # fmt: skip
  for split in ('test', 'train'):
    made = succeed(
      'prepare', f'--images={place}/images/{split}', f'--split={split}',
      f'--autoencoder=taesd:{place}/tiny vae', *where,
    )  # fmt: skip
  ((command, *words),) = printed(made.out)
  assert command == 'train' and '--workdir=runs/animals' in words
  words = [word for word in words if not word.startswith('--workdir')]
  succeed(
    'train', f'--workdir={place}/a run', *words,
    *(f'--config.{key}={value}' for key, value in FEW.items()),
    f'--config.eval.extractor={place}/mine.py:means',
  )  # fmt: skip
  made = succeed(
    'train-features', *words, '--steps=4', f'--to={place}/classifier'
  )
  assert 'accuracy on 12 held-out images of animals' in made.out
  return place


@pytest.fixture
def workdir(place, tmp_path):
  return shutil.copytree(place / 'a run', tmp_path / "it's a run")


def test_explore_decodes_and_names_the_images(place):
  explorer = Explorer(SampleRequest(Source.at(f'{place}/a run')))
  assert explorer.names == ['class 2', 'golden retriever', 'tench']
  picture = explorer.draw(explorer.start)
  expected = load(f'{place}/a run')([0, 1, 2], 'ig:1.5')
  assert picture.images.shape == (3, 16, 16, 3)
  assert np.abs(picture.images - expected.astype(int)).max() <= 1
  states = explorer.film(explorer.start).images['state']
  assert states.shape == (2, 1, 16, 16, 3)


def test_training_opens_everything_once(place, tmp_path, monkeypatch):
  opened = []

  def count(owner, name, what):
    function = getattr(owner, name)

    def counted(*args, **kwargs):
      opened.append(what)
      return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)

  count(sources.LatentSource, '__init__', 'records')
  count(decoder, 'read_autoencoder', 'autoencoder')
  count(ocp.CheckpointManager, '__init__', 'checkpoints')
  config = json.loads((place / 'a run' / 'config.json').read_text())
  config['train']['images'] = 2 * config['train']['batch_size']
  assert config['eval']['every_images']  # Scoring reads the test split.
  (tmp_path / 'config.py').write_text(
    'import ml_collections\n'
    'def get_config():\n'
    f'  return ml_collections.ConfigDict({config!r})\n'
  )
  run_folder = tmp_path / 'run'
  words = f'--config={tmp_path}/config.py', f'--workdir={run_folder}'
  succeed('train', *words)
  assert (run_folder / 'previews').is_dir()
  assert sorted(opened) == [
    'autoencoder',
    'checkpoints',
    'records',  # the training split
    'records',  # the test split
  ]


def test_run_remembers_autoencoder_and_classes(place):
  about = json.loads((place / 'a run' / 'latents.json').read_text())
  assert about['classes'] == list(CLASSES)
  assert about['decoder']['autoencoder'] == f'taesd:{place}/tiny vae'
  assert len(about['decoder']['sha256']) == 64
  # Training decoded latents to make previews and scores.
  assert list((place / 'a run' / 'previews').glob('*.png'))
  assert 'eval/fd' in (place / 'a run' / 'metrics.jsonl').read_text()


@pytest.mark.slow
def test_printed_commands_work_on_a_latent_run(place, workdir):
  succeed('report', f'--workdir={workdir}', '--no_draw')
  commands = printed((workdir / 'report.html').read_text())
  assert [words[0] for words in commands] == ['compare', 'sweep', 'evaluate']
  extractor = f'--extractor=classifier:{place}/classifier'
  for command, *words in commands:
    few = ['--num=12', '--config.eval.batch_size=16']
    few += COMPARE if command == 'compare' else ()
    words = [re.sub(r'\.\.2\.0:6', '..2.0:2', word) for word in words]
    result = succeed(command, *words, extractor, *short(), *few)
    if command == 'compare':
      assert '30 real images of animals, reconstructed by taesd' in result.out
    if command == 'evaluate':
      assert 'are reconstructions' in result.err
  succeed('report', f'--workdir={workdir}', *short())
  text = html.unescape((workdir / 'report.html').read_text())
  assert not printed(text)
  assert 'golden retriever, t = ' in text
  assert 'columns: class 2, golden retriever, tench.' in text
  protocol = json.loads((workdir / 'compare.json').read_text())['protocol']
  assert protocol['autoencoder']['name'] == 'taesd'


def test_classes_are_drawn_by_name(workdir, tmp_path):
  on = (f'--workdir={workdir}', '--num=6')
  labels = 'golden retriever,tench,2'
  succeed('sample', *on, f'--labels={labels}', f'--out={tmp_path}/a', *short())
  with np.load(tmp_path / 'a' / 'samples.npz') as found:
    # The first class is named '2', so the label '2' selects class index 0.
    assert found['arr_1'].tolist() == [1, 2, 0] * 2
  protocol = json.loads((tmp_path / 'a' / 'samples.json').read_text())
  assert protocol['labels'] == '1,2,0'
  assert protocol['classes'] == {str(k): CLASSES[k] for k in range(3)}
  result = run('sample', *on, '--labels=golden retreiver')
  assert result.status == 2 and "Did you mean 'golden retriever'" in result.err


def test_class_names_and_autoencoder_travel_with_weights(workdir, tmp_path):
  succeed('convert', f'--from={workdir}', f'--to={tmp_path}/weights')
  pipeline = load(tmp_path / 'weights')
  assert pipeline.classes == load(workdir).classes == CLASSES
  images = pipeline(['golden retriever', 2, 'tench', '2'])
  np.testing.assert_array_equal(images, pipeline([1, 2, 2, 0]))
  assert images.shape == (4, 16, 16, 3)
  succeed(
    'sample', f'--folder={tmp_path}/weights', '--num=2',
    '--labels=golden retriever', '--config.sample.batch_size=8',
  )  # fmt: skip


@pytest.mark.parametrize('damage', ['gone', 'another'])
def test_missing_autoencoder_is_named(place, workdir, tmp_path, damage):
  moved = tmp_path / 'moved'
  shutil.copytree(place / 'tiny vae', moved)
  about = json.loads((workdir / 'latents.json').read_text())
  about['decoder']['autoencoder'] = f'taesd:{tmp_path}/vae'
  (workdir / 'latents.json').write_text(json.dumps(about))
  if damage == 'another':
    write_autoencoder(tmp_path / 'vae', seed=1)
  on = f'--workdir={workdir}'
  for words in (
    ('compare',), ('evaluate', '--num=4'), ('sample', '--num=4'),
    ('sweep', '--guidance=ig:1..2:2', '--num=4'),
  ):  # fmt: skip
    result = run(words[0], on, *words[1:])
    assert result.status == 2 and result.err.count('\n') == 1
    assert '--autoencoder=taesd:FILE' in result.err
    assert str(tmp_path / 'vae') in result.err
  succeed('report', on, '--no_draw')
  text = html.unescape((workdir / 'report.html').read_text())
  assert not printed(text) and '--autoencoder=taesd:FILE' in text
  # `report --autoencoder` must add the flag to the commands that it suggests.
  given = f'--autoencoder=taesd:{moved}'
  succeed('report', on, '--no_draw', given)
  text = (workdir / 'report.html').read_text()
  assert all(given in words for words in printed(text)) and printed(text)
  if damage == 'another':
    return
  config = json.loads((workdir / 'config.json').read_text())
  changes = [
    f'--config.data.dir={config["data"]["dir"]}',
    '--config.data.name=animals', '--config.data.autoencoder=taesd',
    '--config.data.test_split=test', '--config.model.size=2',
    '--config.model.num_classes=3',
    *(f'--config.{key}={value}' for key, value in FEW.items()),
    f'--config.eval.extractor={place}/mine.py:means',
  ]  # fmt: skip
  succeed('train', on, '--config=configs/sit.py:Tiny/1,ig', given, *changes)
  about = json.loads((workdir / 'latents.json').read_text())
  assert about['decoder']['autoencoder'] == f'taesd:{moved}'


def test_autoencoder_is_read_from_a_folder(place, tmp_path):
  from core.errors import InputError
  from dit.autoencoder.files import read_autoencoder
  from dit.sharding import MeshConfig, make_mesh

  mesh = make_mesh(MeshConfig())
  folder = shutil.copytree(place / 'tiny vae', tmp_path / 'a,b')
  other = load_file(folder / 'taesd_encoder.safetensors')
  save_file(other, folder / 'taesdxl_encoder.safetensors')
  found = read_autoencoder(f'taesd:{folder}', mesh, 'decoder')
  assert found.params.keys() == {'encoder', 'decoder'}
  files = ','.join(
    str(place / 'tiny vae' / f'taesd_{half}.safetensors')
    for half in ('decoder', 'encoder')
  )
  assert read_autoencoder(f'taesd:{files}', mesh, 'encoder').params.keys()
  for name, where, message in (
    ('taesdxl', folder, 'has no decoder'),
    ('taef1', folder, 'two of these files hold the encoder'),
    ('taef2', place / 'tiny vae', 'by 8 to 32'),
  ):
    with pytest.raises(InputError, match=message) as error:
      read_autoencoder(f'{name}:{where}', mesh, 'decoder')
    said = str(error.value)
    assert '\n' not in said and f'--autoencoder={name}:FILE' in said
    assert 'taesd_decoder.safetensors, taesd_encoder.safetensors' in said
  with pytest.raises(InputError, match='It holds nothing'):
    (tmp_path / 'empty').mkdir()
    read_autoencoder(f'taesd:{tmp_path}/empty', mesh, 'decoder')
