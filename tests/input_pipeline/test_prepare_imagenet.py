"""ImageNet's official tars, in miniature, through TFDS to records."""

import io
import pathlib
import sys
import tarfile

import pytest
from command_runs import run

from input_pipeline.image_files import open_images
from input_pipeline.imagenet import TARS
from input_pipeline.records import LatentSource

ROOT = pathlib.Path(__file__).parents[2]
SAMPLE = ROOT.parent / 'shared' / 'data' / 'imagenet1k_sample' / 'train'
# Synsets of the first validation images, as ILSVRC publishes them.
FIRST = ('n01751748', 'n09193705', 'n02105855', 'n04263257', 'n03125729')


def write_tar(path, files):
  with tarfile.open(path, 'w') as archive:
    for name, data in files:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope='module')
def images():
  """Six images of the sample, {(synset, name): data}."""
  if not SAMPLE.is_dir():
    pytest.skip(f'{SAMPLE} is absent')
  grey = SAMPLE / 'n02692877' / 'n02692877_airship.JPEG'
  paths = [*sorted(SAMPLE.rglob('*.JPEG'))[::40], grey]
  return {(p.parent.name, p.name): p.read_bytes() for p in paths}


@pytest.fixture
def data_dir(images, tmp_path):
  """A folder with the two tars, where TFDS looks for them."""
  manual = tmp_path / 'data' / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  synsets = []
  for (synset, name), data in images.items():
    write_tar(tmp_path / 'synset.tar', [(name, data)])
    inner = (tmp_path / 'synset.tar').read_bytes()
    synsets.append((f'{synset}.tar', inner))
  write_tar(manual / TARS['train'], synsets)
  write_tar(
    manual / TARS['validation'],
    [
      (f'ILSVRC2012_val_{5 - i:08}.JPEG', data)  # the last comes first
      for i, data in enumerate(list(images.values())[:5])
    ],
  )
  return tmp_path / 'data'


def prepare(place, data_dir, name):
  return run(
    'prepare', f'--images={place}', f'--config.data.dir={data_dir}',
    f'--config.data.name={name}', '--image_size=16',
    '--batch_size=8',
  )  # fmt: skip


def records(data_dir, name):
  """{image: class} of the records."""
  source = LatentSource(data_dir / name / 'train')
  classes = source.metadata.classes
  return {
    record['pixels'].tobytes(): classes[record['label']] for record in source
  }, source


def test_records_are_those_of_the_folder(images, data_dir, tmp_path):
  for (synset, name), data in images.items():
    path = tmp_path / 'folder' / synset / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
  for place, name in ((tmp_path / 'folder', 'a'), ('tfds:imagenet2012', 'b')):
    result = prepare(place, data_dir, name)
    assert result.status == 0, result.err
    assert '6 records in 1 files, 0 broken' in result.out
  direct, _ = records(data_dir, 'a')
  through, source = records(data_dir, 'b')
  assert len(direct) == 6 and through == direct
  # Labels are ImageNet's own, however few of its classes are there.
  assert len(source.metadata.classes) == 1000
  assert list(source.metadata.classes) == sorted(source.metadata.classes)
  labels = {int(record['label']) for record in source}
  assert labels == {0, 200, 400, 600, 800, 405}
  assert 'tensorflow' not in sys.modules


def test_validation_labels_follow_the_names(images, data_dir):
  files = open_images('tfds:imagenet2012:validation', str(data_dir))
  read = {file.name: file for file in map(files.read, range(files.count))}
  assert len(read) == 5
  for i, (data, synset) in enumerate(
    zip(list(images.values())[4::-1], FIRST, strict=True)
  ):
    file = read[f'ILSVRC2012_val_{i + 1:08}.JPEG']
    assert files.classes[file.label] == synset
    assert file.load() == data


def test_it_is_written_once(data_dir):
  open_images('tfds:imagenet2012', str(data_dir))
  for name in TARS.values():
    (data_dir / 'downloads' / 'manual' / name).unlink()
  assert open_images('tfds:imagenet2012', str(data_dir)).count == 6


@pytest.mark.parametrize(
  'spoil, message',
  [
    (pathlib.Path.unlink, 'ILSVRC2012_img_train.tar not in'),
    (
      lambda path: path.write_bytes(path.read_bytes()[:-50_000]),
      'must be those',
    ),
    (lambda path: path.write_bytes(b'no tar' * 1000), 'must be those'),
    (lambda path: write_tar(path, [('a.tar', b'')]), 'must be those'),
  ],
)
def test_wrong_tars_are_one_line(data_dir, spoil, message):
  spoil(data_dir / 'downloads' / 'manual' / TARS['train'])
  result = prepare('tfds:imagenet2012', data_dir, 'b')
  assert result.status == 2 and message in result.err
  assert 'Traceback' not in result.err
  assert not (data_dir / 'b').exists()


def test_another_class_is_one_line(images, data_dir, tmp_path):
  ((_, name), data), *_ = images.items()
  write_tar(tmp_path / 'synset.tar', [(name, data)])
  write_tar(
    data_dir / 'downloads' / 'manual' / TARS['train'],
    [('n00000000.tar', (tmp_path / 'synset.tar').read_bytes())],
  )
  result = prepare('tfds:imagenet2012', data_dir, 'b')
  assert result.status == 2 and "n00000000'" in result.err
