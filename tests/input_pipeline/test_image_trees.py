"""Image folders and archives of all layouts give the right labels."""

import os
import pathlib
import shlex
import stat
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from evaluate.image_sets import open_image_set
from input_pipeline import listing
from input_pipeline.image_files import open_images
from input_pipeline.images import BrokenImageError, decode

CATS = {'cat/1.png': 0, 'cat/2.png': 0, 'dog/1.png': 1}


def write(root, name, value=0):
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix.lower() in listing.SUFFIXES:
    image = Image.fromarray(np.full((2, 2, 3), value, np.uint8))
    image.save(path, 'PNG')
  else:
    path.write_text('text')


def grow(root, entries):
  """Creates files, folders (NAME/) and links (NAME -> TARGET)."""
  root.mkdir(parents=True, exist_ok=True)
  for value, entry in enumerate(entries):
    name, _, target = entry.partition(' -> ')
    if target:
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      (root / name).symlink_to(target)
    elif name.endswith('/'):
      (root / name).mkdir(parents=True)
    else:
      write(root, name, value)
  return root


def pack(root, target, **options):
  with zipfile.ZipFile(target, 'w', **options) as archive:
    for path in sorted(root.rglob('*')):
      archive.write(path, path.relative_to(root))
  return target


def labels_of(place):
  files = open_images(str(place), 'unused')
  read = [files.read(i) for i in range(files.count)]
  for file in read:
    assert decode(file.load()).size == (2, 2)
  return files.classes, {file.name: file.label for file in read}


# Entries that may be added to the tree CATS, but must be ignored.
IGNORED = {
  'plain': [],
  'system files': [
    '.DS_Store', 'cat/Thumbs.db', 'cat/desktop.ini', 'ehthumbs.db',
  ],
  'notebook checkpoints': [
    'dog/.ipynb_checkpoints/0.png', '.ipynb_checkpoints/0.png',
  ],
  'recovered and shared files': [
    'FOUND.001/0.png', '_vti_cnf/0.png', 'cat/:2e1.png',
  ],
  'version control': ['.git/logo/0.png'],
  'archive of macOS': ['__MACOSX/cat/._1.png', '__MACOSX/1.png', 'cat/._1.png'],
  'Synology': [
    '@eaDir/cat/0.png', 'cat/@eaDir/1.png/thumb.png', '#recycle/cat/0.png',
  ],
  'QNAP': ['@Recycle/cat/0.png', 'cat/@__thumb/1.png'],
  'drive of Windows': [
    '$RECYCLE.BIN/S-1/0.png', 'System Volume Information/0.png',
  ],
  'drive of Linux': ['lost+found/', '.Trash-0/0.png'],
  'drive of macOS': ['.Spotlight-V100/0.png', '.Trashes/0.png'],
  'editors': [
    'cat/1.png~', 'cat/.1.png.swp', '__pycache__/a.pyc', 'cat/~$1.png',
  ],
  'other files': ['README.md', 'cat/notes.txt', 'labels.csv'],
}  # fmt: skip
# Per tree: entries, class names, and labels of images.
TREES = {
  **{name: ([*CATS, *more], 'cat dog', CATS) for name, more in IGNORED.items()},
  'suffixes': (
    ['a/1.JPEG', 'a/2.jpg', 'a/3.PNG', 'a/4.webp', 'a/5.bmp', 'a/6.Gif',
     'a/7.tif', 'a/8.TIFF', 'a/9.heic'],
    'a', {f'a/{i + 1}.{s}': 0 for i, s in enumerate(
      'JPEG jpg PNG webp bmp Gif tif TIFF'.split())},
  ),
  'one folder around': (
    [f'set/{name}' for name in CATS],
    'cat dog', {f'set/{name}': label for name, label in CATS.items()},
  ),
  'groups of classes': (
    ['pets/cat/1.png', 'birds/owl/1.png'],
    'cat owl', {'birds/owl/1.png': 1, 'pets/cat/1.png': 0},
  ),
  'an empty class': (
    [*CATS, 'cow/'], 'cat cow dog', {**CATS, 'dog/1.png': 2},
  ),
  'a class of unknown suffixes': (
    [*CATS, 'cow/1.heic'], 'cat cow dog', {**CATS, 'dog/1.png': 2},
  ),
  'one split alone': (
    ['train/cat/1.png', 'train/dog/1.png', 'docs/plan/text.md'],
    'cat dog', {'train/cat/1.png': 0, 'train/dog/1.png': 1},
  ),
  'a class called train': (
    ['bus/1.png', 'train/1.png'],
    'bus train', {'bus/1.png': 0, 'train/1.png': 1},
  ),
  'accents in two parts': (
    ['cafe\u0301/1.png'], 'caf\u00e9', {'cafe\u0301/1.png': 0},
  ),
  'upper and lower case': (
    ['Cat/1.png', 'cat/1.png'], 'Cat cat', {'Cat/1.png': 0, 'cat/1.png': 1},
  ),
}  # fmt: skip


@pytest.mark.parametrize('form', ['folder', 'zip'])
@pytest.mark.parametrize('name', TREES)
def test_classes_and_labels_of_trees(tmp_path, name, form):
  entries, classes, labels = TREES[name]
  place = grow(tmp_path / 'tree', entries)
  if form == 'zip':
    place = pack(place, tmp_path / 'tree.zip')
  assert labels_of(place) == (tuple(classes.split()), labels)
  # `evaluate` must read the same images.
  assert open_image_set(str(place), 'unused').count == len(labels)


LINKED = {
  'links to classes': (
    ['elsewhere/k/1.png', 'elsewhere/h/1.png', 'tree/cat -> ../elsewhere/k',
     'tree/dog -> ../elsewhere/h'],
    'cat dog', {'cat/1.png': 0, 'dog/1.png': 1},
  ),
  'links to files': (
    ['elsewhere/1.png', 'tree/cat/a.png -> ../../elsewhere/1.png'],
    'cat', {'cat/a.png': 0},
  ),
  'a hidden link to itself': (
    ['tree/cat/1.png', 'tree/.loop -> .'], 'cat', {'cat/1.png': 0},
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', LINKED)
def test_links_are_followed(tmp_path, name):
  entries, classes, labels = LINKED[name]
  grow(tmp_path, entries)
  assert labels_of(tmp_path / 'tree') == (tuple(classes.split()), labels)


REFUSED = {
  'no images': (['a/text.txt'], 'holds no image'),
  'an image without a class': ([*CATS, '3.png'], 'holds 3.png outside'),
  'two depths': (
    ['cat/1.png', 'dog/more/1.png'], 'images in cat, and deeper in dog/more',
  ),
  'a loop': (['cat/1.png', 'cat/loop -> ..'], 'cat/loop is a loop'),
  'a link to itself': (['cat/1.png', 'dog -> dog'], 'dog cannot be followed'),
  'a link to nowhere': (['cat/1.png', 'dog -> gone'], 'dog cannot be followed'),
  'one folder twice': (
    ['cat/1.png', 'dog -> cat'], 'are one folder, by a link',
  ),
  'a loop around the tree': (
    ['cat/1.png', 'up -> ..'], '{tree}/up is a loop.*the link itself',
  ),
  'splits of other names': (
    ['train_set/cat/1.png', 'test_set/cats/1.png'],
    'splits test_set, train_set, .*--images={tree}/train_set --split=train_set',
  ),
  'capitals': (
    ['Train/cat/1.png', 'Test/cat/1.png'],
    '--images={tree}/Train --split=Train$',
  ),
  'flat splits': (
    ['Train/1.png', 'Test/1.png'], 'expected CLASS/IMAGE in each split.$',
  ),
  'images below one class': (
    ['cat/images/1.png', 'dog/images/'], 'CLASS/images/IMAGE',
  ),
  'splits': (
    ['train/cat/1.png', 'val/cat/1.png'],
    'splits train, val, .*--images={tree}/train --split=train$',
  ),
  'splits in a folder': (
    ['set/test/cat/1.png', 'set/train/dog/1.png'],
    'splits test, train, .*--images={tree}/set/train --split=train$',
  ),
  'splits without classes': (
    ['train/1.png', 'val/1.png'], 'splits train, val',
  ),
  'a split without classes': (
    ['train/cat/1.png', 'test/1.png'], 'splits test, train',
  ),
  'images below classes': (
    ['cat/images/1.png', 'dog/images/1.png'], 'CLASS/images/IMAGE',
  ),
  'one name twice': (
    ['a/cat/1.png', 'b/cat/1.png', 'b/dog/1.png'],
    r'several folders of the name cat .*--images={tree}/a, or',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', REFUSED)
def test_unclear_trees_are_refused(tmp_path, name):
  entries, message = REFUSED[name]
  tree = grow(tmp_path / 'tree', entries)
  with pytest.raises(InputError, match=message.format(tree=tree)) as caught:
    labels_of(tree)
  assert '\n' not in str(caught.value)


def test_the_suggested_links_have_the_classes(tmp_path):
  entries = ['cat/images/1.png', "d o'g/images/1.png", 'cat/boxes.txt']
  tree = grow(tmp_path / 'my tree', entries)
  with pytest.raises(InputError, match='--images=linked: mkdir') as caught:
    labels_of(tree)
  command = str(caught.value).partition('--images=linked: ')[2]
  subprocess.run(['bash', '-ec', command], cwd=tmp_path, check=True)
  expected = {'cat/1.png': 0, "d o'g/1.png": 1}
  assert labels_of(tmp_path / 'linked') == (('cat', "d o'g"), expected)


def test_the_suggested_split_has_the_classes(tmp_path):
  entries = [*(f'train/{name}' for name in CATS), 'val/a/1.png']
  tree = grow(tmp_path / 'my tree', entries)
  with pytest.raises(InputError, match='prepare each') as caught:
    labels_of(tree)
  flag, _ = shlex.split(str(caught.value).partition('itself: ')[2])
  assert labels_of(flag.removeprefix('--images='))[0] == ('cat', 'dog')


def test_what_is_ignored_is_one_line(tmp_path, caplog):
  caplog.set_level('INFO')
  entries = [*CATS, '.git/0.png', '.git/1.png', 'cat/Thumbs.db', 'README.md']
  labels_of(grow(tmp_path / 'tree', entries))
  (line,) = [r.getMessage() for r in caplog.records if 'ignored' in r.message]
  assert line.endswith(
    'ignored 2 leftovers of other tools (.git, cat/Thumbs.db) and 1 files that '
    'are not images (README.md).'
  )


@pytest.mark.parametrize('entries, message', [
  ([*CATS, 'cow/', 'yak/1.heic'], 'no image in the folders cow, yak'),
  (['pets/cat/1.png', 'farm/cow/1.png'],
   'the classes cat, cow lie in several folders (farm, pets)'),
])  # fmt: skip
def test_what_may_be_a_mistake_is_named(tmp_path, caplog, entries, message):
  labels_of(grow(tmp_path / 'tree', entries))
  assert message in caplog.text


def test_pipes_are_not_read(tmp_path):
  tree = grow(tmp_path / 'tree', [*CATS])
  os.mkfifo(tree / 'cat' / '3.png')
  assert labels_of(tree)[1] == CATS


@pytest.mark.parametrize('opening', [open_images, open_image_set])
def test_a_folder_without_permission_is_named(tmp_path, monkeypatch, opening):
  tree, scan = grow(tmp_path / 'tree', [*CATS]), os.scandir

  def refuse(folder):
    if pathlib.Path(folder).name == 'cat':
      raise PermissionError(13, 'Permission denied', str(folder))
    return scan(folder)

  # Real permissions would not stop the user root, who may run this test.
  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(InputError, match=r'tree/cat cannot be read \(Permission'):
    opening(str(tree), '')


def test_a_file_without_permission_is_broken(tmp_path, monkeypatch):
  tree = grow(tmp_path / 'tree', ['cat/1.png'])

  def refuse(path):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
  with pytest.raises(BrokenImageError, match='no permission'):
    labels_of(tree)


def test_a_link_to_a_lost_image_is_broken(tmp_path):
  tree = grow(tmp_path / 'tree', ['cat/1.png -> gone.png'])
  with pytest.raises(BrokenImageError, match=r'leads nowhere \(to gone.png\)'):
    labels_of(tree)
  with pytest.raises(InputError, match=r'cat/1\.png .*leads nowhere'):
    open_image_set(str(tree), '')


def test_separators_of_windows_are_read(tmp_path):
  tree = grow(tmp_path / 'tree', [*CATS])
  with zipfile.ZipFile(tmp_path / 'tree.zip', 'w') as archive:
    for name in CATS:
      info = zipfile.ZipInfo('placeholder')
      info.filename = name.replace('/', '\\')
      archive.writestr(info, (tree / name).read_bytes())
  assert labels_of(tmp_path / 'tree.zip') == (('cat', 'dog'), CATS)


def test_a_link_to_a_class_in_an_archive_is_refused(tmp_path):
  place = pack(grow(tmp_path / 'tree', [*CATS]), tmp_path / 'tree.zip')
  with zipfile.ZipFile(place, 'a') as archive:
    info = zipfile.ZipInfo('owl')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, '../owl')
  with pytest.raises(InputError, match=r'owl is a link .* without -y'):
    labels_of(place)


def test_an_entry_outside_of_an_archive_is_refused(tmp_path):
  pack(grow(tmp_path / 'tree', ['dog/1.png']), tmp_path / 'tree.zip')
  with zipfile.ZipFile(tmp_path / 'tree.zip', 'a') as archive:
    archive.write(tmp_path / 'tree' / 'dog' / '1.png', '../cat/1.png')
  with pytest.raises(InputError, match=r'\.\./cat/1.png, which lies outside'):
    labels_of(tmp_path / 'tree.zip')


def test_an_encrypted_archive_is_refused(tmp_path):
  place = pack(grow(tmp_path / 'tree', ['cat/1.png']), tmp_path / 'tree.zip')
  data = bytearray(place.read_bytes())
  data[data.rindex(b'PK\1\2') + 8] |= 1
  place.write_bytes(data)
  with pytest.raises(InputError, match=r'cat/1.png is encrypted'):
    labels_of(place)


def test_splits_in_an_archive_are_to_be_unpacked(tmp_path):
  tree = grow(tmp_path / 'tree', ['train/cat/1.png', 'val/cat/1.png'])
  with pytest.raises(InputError, match=r'unpack it.*UNPACKED/train'):
    labels_of(pack(tree, tmp_path / 'tree.zip'))


def test_a_huge_file_is_broken_before_it_is_read(tmp_path, monkeypatch):
  tree = grow(tmp_path / 'tree', ['cat/1.png'])
  with (tree / 'cat' / '1.png').open('r+b') as file:
    file.truncate(2**28 + 1)  # The file is sparse.
  place = pack(grow(tmp_path / 'small', ['cat/1.png']), tmp_path / 'a.zip')
  claimed = bytearray(place.read_bytes())
  at = claimed.rindex(b'PK\1\2') + 24  # offset of the size in the archive
  claimed[at : at + 4] = (1_500_000_000).to_bytes(4, 'little')
  place.write_bytes(claimed)
  files = [open_images(str(each), '') for each in (tree, place)]

  def read(*args):
    raise AssertionError('it was read')

  monkeypatch.setattr(pathlib.Path, 'read_bytes', read)
  monkeypatch.setattr(zipfile.ZipFile, 'read', read)
  for each in files:
    with pytest.raises(BrokenImageError, match='bytes, more than 268,435,456'):
      each.read(0).load()


def test_samples_in_a_folder_of_an_archive_have_their_labels(tmp_path):
  tree = grow(tmp_path / 'tree', ['out/images/0.png', 'out/images/1.png',
                                  'out/samples.png'])  # fmt: skip
  (tree / 'out' / 'labels.txt').write_text('5\n7\n')
  images = open_image_set(str(pack(tree, tmp_path / 'tree.zip')), '')
  assert images.labels.tolist() == [5, 7]
