"""Records with invalid labels or constant channels are refused."""

import io
import json
import types
import warnings
import zipfile

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from command_runs import change_json, refusal, refused_line, succeed
from PIL import Image
from refusals import refused

from core.errors import InputError
from core.files import file_sha256
from dit.latents import Normalization
from input_pipeline import shards
from input_pipeline.records import LatentSource, Layout, Metadata
from input_pipeline.sources import (
  DataConfig,
  check_source,
  normalization_of,
  open_source,
)

LAYOUT = Layout('pixels', (2, 2, 3), 'uint8', False)


def write_shard(folder, labels, num_classes=2):
  arrays = np.zeros((len(labels), 1, 2, 2, 3), np.uint8)
  path = folder / '00000-of-00001.array_record'
  with shards.ShardWriter(path, LAYOUT, num_classes) as shard:
    shard.write(np.asarray(labels), arrays)


@pytest.mark.parametrize('label', [-1, 2, 7])
def test_labels_that_are_no_class_are_not_written(tmp_path, label):
  with pytest.raises(InputError, match=f'the label {label}, expected 0 to 1'):
    write_shard(tmp_path, [0, label])
  assert not list(tmp_path.iterdir())
  write_shard(tmp_path, [0, 1])


def words_of(images, data_dir):
  return ('prepare', f'--images={images}', '--config.data.name=photos',
          f'--config.data.dir={data_dir}', '--image_size=8',
          '--batch_size=8')  # fmt: skip


def prepare(images, data_dir):
  return succeed(*words_of(images, data_dir))


@pytest.fixture
def constant(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(32):
    values = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    values[..., 2] = 77
    path = tmp_path / 'images' / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
  return tmp_path / 'images'


@pytest.fixture
def prepared(constant, tmp_path):
  prepare(constant, tmp_path / 'data')
  return tmp_path / 'data' / 'photos' / 'train'


def test_a_constant_channel_is_prepared_and_trained_on(
  prepared, tmp_path, make_experiment
):
  known = json.loads((prepared / 'metadata.json').read_text())['statistics']
  assert known['std'][0] > 0.5 and known['std'][2] < 1e-6
  np.testing.assert_allclose(known['mean'][2], 77 / 127.5 - 1)
  network = make_experiment('model.channels=3', 'model.num_classes=2').model
  for statistics in ('autoencoder', 'data'):
    config = DataConfig('photos', str(tmp_path / 'data'), 'train', '', 1, 2,
                        statistics=statistics)  # fmt: skip
    source = open_source(config, 'train')
    if statistics == 'autoencoder':
      check_source(source, config, network)
      assert normalization_of(source, config) == Normalization()
    else:
      with pytest.raises(InputError, match=r'channels \[2\] of .* never vary'):
        check_source(source, config, network)


def test_older_records_spell_normalization_differently(prepared):
  metadata = Metadata.load(prepared)

  def spell(values):
    values['normalisation'] = values.pop('normalization')

  change_json(prepared / 'metadata.json', spell)
  assert Metadata.load(prepared) == metadata


def rewrite(folder, change):
  """Applies `change` to the records of a shard, and updates the checksum."""
  metadata = Metadata.load(folder)
  path = folder / metadata.shards[0].file
  records = [LatentSource(folder)[i] for i in range(metadata.records)]
  writer = ArrayRecordWriter(str(path), shards.WRITER_OPTIONS)
  for i, record in enumerate(records):
    writer.write(change(i, metadata.layout, record))
  writer.close()
  known = {'sha256': file_sha256(path), 'nbytes': path.stat().st_size}
  change_json(
    folder / 'metadata.json', lambda values: values['shards'][0].update(known)
  )


@pytest.mark.parametrize('label', [-1, 2, 7, 2**31 - 1])
def test_labels_that_are_no_class_are_found(prepared, tmp_path, label):
  rewrite(
    prepared,
    lambda i, layout, record: layout.pack(
      label if i == 5 else record['label'], record['pixels']
    ),
  )
  message = f'its label is {label}, expected 0 to 1'
  source = LatentSource(prepared)
  assert source[4]['label'] == 0
  with pytest.raises(InputError, match=f'record 5 of .*{message}'):
    source[5]
  line = refused_line(*words_of('unused', tmp_path / 'data'), '--verify')
  assert 'Traceback' not in line
  assert f'record 5 is damaged: {message}' in line


@pytest.mark.parametrize('label', [-1, 2])
def test_labels_of_tfds_that_are_no_class_are_found(monkeypatch, label):
  class Records(list):
    dataset_info = types.SimpleNamespace(
      features={'label': types.SimpleNamespace(num_classes=2)}
    )

  records = Records({'label': each} for each in (0, label))
  monkeypatch.setattr('input_pipeline.sources.open_tfds', lambda *_: records)
  source = open_source(DataConfig('stl10', 'x', 'train', '', 1, 2), 'train')
  assert len(source) == 2 and source[0] == {'label': 0}
  with refused(f'record 1 of stl10 has the label {label}'):
    source[1]


def test_records_of_another_length_are_one_line(prepared, tmp_path):
  rewrite(
    prepared,
    lambda i, layout, record: layout.pack(record['label'], record['pixels'])[
      : None if i else -1
    ],
  )
  said = refusal(*words_of('unused', tmp_path / 'data'), '--verify')
  assert 'record 0 is damaged' in said


def test_a_damaged_account_of_a_shard_is_written_again(
  prepared, constant, tmp_path
):
  (about,) = prepared.glob('0*.json')
  whole = about.read_bytes()
  for text in ('{', '[]', '{"file": 1}', '1'):
    about.write_text(text)
    (prepared / 'metadata.json').unlink()
    prepare(constant, tmp_path / 'data')
    assert about.read_bytes() == whole


def file_of(size, form, value=0):
  data = io.BytesIO()
  Image.new('RGB', size, (value,) * 3).save(data, form)
  return data.getvalue()


def test_images_beyond_the_bounds_are_left_out_by_name(tmp_path):
  with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
    archive.writestr('a/0.png', file_of((8, 8), 'PNG', 7))
    archive.writestr('a/thin.jpg', file_of((1, 65_000), 'JPEG'))
    archive.writestr('a/vector.png', file_of((8, 8), 'EPS'))
    archive.writestr('b/0.png', file_of((8, 8), 'PNG', 9))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    result = prepare(tmp_path / 'images.zip', tmp_path / 'data')
  assert '2 records in 1 files, 2 broken' in result.out
  assert 'Left out a/thin.jpg' in result.err and 'vector.png' in result.err
