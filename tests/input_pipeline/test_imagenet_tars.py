"""The commands in docs/data.md unpack small copies of the ImageNet tars."""

import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import textwrap

import pytest
from command_runs import ROOT, succeed

from input_pipeline.records import LatentSource

SAMPLE = ROOT.parent / 'shared' / 'data' / 'imagenet1k_sample' / 'train'
# These are the synsets of the first validation images of ILSVRC.
FIRST = ('n01751748', 'n09193705', 'n02105855', 'n04263257', 'n03125729')


def write_tar(path, files):
  with tarfile.open(path, 'w') as archive:
    for name, data in files:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope='module')
def images():
  if not SAMPLE.is_dir():
    pytest.skip(f'{SAMPLE} is absent')
  gray = SAMPLE / 'n02692877' / 'n02692877_airship.JPEG'
  paths = [*sorted(SAMPLE.rglob('*.JPEG'))[::40], gray]
  return {(p.parent.name, p.name): p.read_bytes() for p in paths}


@pytest.fixture
def unpacked(images, tmp_path):
  """Unpacks two tars with the commands in docs/data.md; returns the folder."""
  synsets = []
  for (synset, name), data in images.items():
    write_tar(tmp_path / 'synset.tar', [(name, data)])
    synsets.append((f'{synset}.tar', (tmp_path / 'synset.tar').read_bytes()))
  write_tar(tmp_path / 'ILSVRC2012_img_train.tar', synsets)
  write_tar(tmp_path / 'ILSVRC2012_img_val.tar', [
    (f'ILSVRC2012_val_{5 - i:08}.JPEG', data)  # names in reverse order
    for i, data in enumerate(list(images.values())[:5])
  ])  # fmt: skip
  page = (ROOT / 'docs' / 'data.md').read_text()
  (commands,) = re.findall(r'\n\n(    mkdir -p imagenet.*?)\n\n', page, re.S)
  python = pathlib.Path(sys.executable).parent
  env = os.environ | {'PATH': f'{python}:{os.environ["PATH"]}'}
  words = ['bash', '-euc', textwrap.dedent(commands)]
  subprocess.run(words, cwd=tmp_path, env=env, check=True)
  return tmp_path / 'imagenet'


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def test_unpacked_tars_are_prepared(images, unpacked, tmp_path):
  expected = {
    f'{synset}/{name}': data for (synset, name), data in images.items()
  }
  assert contents(unpacked / 'train') == expected
  values = list(images.values())
  assert contents(unpacked / 'val') == {
    f'{synset}/ILSVRC2012_val_{k + 1:08}.JPEG': values[4 - k]
    for k, synset in enumerate(FIRST)
  }
  result = succeed(
    'prepare', f'--images={unpacked}/train', f'--config.data.dir={tmp_path}',
    '--config.data.name=small', '--image_size=16',
  )  # fmt: skip
  assert '6 records in 1 files, 0 broken' in result.out
  classes = LatentSource(tmp_path / 'small' / 'train').metadata.classes
  assert list(classes) == sorted({synset for synset, _ in images})
