"""Lists folders and .zip archives, without the leftovers of other tools.

All commands that read image files use these listings, and therefore agree on
which files are images and which folders are classes.
"""

import dataclasses
import os
import pathlib
import re
import stat
import zipfile
from collections.abc import Callable, Collection, Iterable

from absl import logging

from core.errors import InputError, shorten
from input_pipeline.images import MAX_FILE_BYTES, BrokenImageError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
# Files and folders that systems and tools leave behind, in lower case. Hidden
# ones such as .DS_Store are not in this list: the first dot identifies them.
_LEFTOVERS = frozenset(
  (
    # macOS
    '__macosx', 'icon\r', 'network trash folder', 'temporary items',
    # Windows
    'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini',
    '$recycle.bin', 'recycler', 'system volume information', '_vti_cnf',
    # Linux, Android and Python
    'lost+found', 'lost.dir', '__pycache__',
    # NAS boxes
    '@eadir', '@tmp', '#recycle', '#snapshot', '~snapshot', '@recycle', '#work',
    '@recently-snapshot', '@__thumb',
  )
)  # fmt: skip
_LEFTOVER_PREFIXES = ('.', '~$', ':2e')
_LEFTOVER_PATTERN = re.compile(r'found\.\d{3}')  # a folder that chkdsk creates
_LEFTOVER_SUFFIXES = ('~', '.swp', '.swo', '.part', '.crdownload')


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files of a folder or archive; names are relative paths with '/'.

  Attributes:
    place: Path of the folder or archive that the user gave.
    images: Names of the image files, sorted.
    others: Names of the other files, sorted.
    folders: Names of the folders, sorted.
    leftovers: Names of the files and folders of other tools, sorted. Contents
      of these folders are not listed.
    read: Thread-safe function from the name of a file to its bytes; raises
      BrokenImageError for a file that is too large or not readable.
  """

  place: str
  images: tuple[str, ...]
  others: tuple[str, ...]
  folders: tuple[str, ...]
  leftovers: tuple[str, ...]
  read: Callable[[str], bytes]

  def log_ignored(self, used: Collection[str] = ()) -> None:
    """Logs all ignored files in one line, except for the files in `used`."""
    files = [name for name in self.others if name not in used]
    groups = [
      f'{len(names)} {kind} ({shorten(names)})'
      for names, kind in (
        (self.leftovers, 'leftovers of other tools'),
        (files, 'files that are not images'),
      )
      if names
    ]
    if groups:
      logging.info('%s: ignored %s.', self.place, ' and '.join(groups))


def list_files(place: str) -> Listing | None:
  """Lists a folder or a .zip archive; returns None for anything else.

  Raises:
    InputError: A folder is unreadable, or an archive is damaged. Links are
      followed, so a broken link or a link to a listed folder is also an error.
  """
  path = os.path.expanduser(place)
  if os.path.isdir(path):
    return _list_folder(place, path)
  if zipfile.is_zipfile(path):
    return _list_archive(place, path)
  return None


def is_image(name: str) -> bool:
  """Returns whether a name has the suffix of an image file."""
  return name.lower().endswith(SUFFIXES)


def _is_leftover(name: str) -> bool:
  return (
    name.lower() in _LEFTOVERS
    or _LEFTOVER_PATTERN.fullmatch(name.lower()) is not None
    or name.startswith(_LEFTOVER_PREFIXES)
    or name.lower().endswith(_LEFTOVER_SUFFIXES)
  )


def _listing(
  source: str,
  files: Iterable[str],
  folders: Iterable[str],
  leftovers: Iterable[str],
  read: Callable[[str], bytes],
) -> Listing:
  files = sorted(files)
  return Listing(
    source,
    tuple(name for name in files if is_image(name)),
    tuple(name for name in files if not is_image(name)),
    tuple(sorted(folders)),
    tuple(sorted(leftovers)),
    read,
  )


def _list_folder(source: str, path: str) -> Listing:
  files: list[str] = []
  leftovers: list[str] = []
  folders = {_identity(path): ''}
  queue = ['']
  while queue:
    folder = queue.pop()
    for entry in _scan(os.path.join(path, folder)):
      name = f'{folder}/{entry.name}' if folder else entry.name
      if _is_leftover(entry.name):
        leftovers.append(name)
      elif _is_folder(entry):
        identity = _identity(entry.path)
        if entry.is_symlink() and _is_around(entry.path, path):
          raise InputError(
            f'the link {entry.path} is a loop: it leads to a folder around it; '
            'remove the link itself (unlink), not what it leads to.'
          )
        # On some file systems, folders have no inode number.
        if identity[1] and identity in folders:
          raise InputError(
            f'{entry.path} and {os.path.join(path, folders[identity])} are one '
            'folder, by a link; remove the link itself (unlink), not what it '
            'leads to.'
          )
        folders[identity] = name
        queue.append(name)
      elif entry.is_file() or entry.is_symlink():
        files.append(name)
      else:  # a pipe or device, where reading could block
        leftovers.append(name)
  names = filter(None, folders.values())
  return _listing(
    source, files, names, leftovers, lambda name: _read_file(path, name)
  )


def _scan(folder: str) -> list[os.DirEntry[str]]:
  try:
    with os.scandir(folder) as entries:
      return list(entries)
  except OSError as error:
    raise InputError(_error_text(folder, error)) from error


def _identity(folder: str) -> tuple[int, int]:
  """Returns device and inode, which are equal for a folder and its links."""
  try:
    status = os.stat(folder)
  except OSError as error:
    raise InputError(_error_text(folder, error)) from error
  return status.st_dev, status.st_ino


def _error_text(path: str, error: OSError) -> str:
  return (
    f'{path} cannot be read ({error.strerror or error}); give permission to '
    'read it, or move it elsewhere.'
  )


def _is_folder(entry: os.DirEntry[str]) -> bool:
  """Returns whether an entry is a folder or a link to a folder.

  A broken link with the name of an image is a broken image. Any other broken
  link could be a class, so it raises InputError.
  """
  try:
    if entry.is_dir():
      return True
    is_broken = entry.is_symlink() and not os.path.exists(entry.path)
  except OSError as error:  # the link leads to itself or an unreadable folder
    is_broken = entry.is_symlink()
    if not is_broken:
      raise InputError(_error_text(entry.path, error)) from error
  if is_broken and not is_image(entry.name):
    raise InputError(
      f'the link {entry.path} cannot be followed (to '
      f'{os.readlink(entry.path)}); repair or delete it.'
    )
  return False


def _is_around(link: str, root: str) -> bool:
  """Returns whether a link leads to a folder that contains it or `root`."""
  target = os.path.realpath(link)
  folders = (os.path.dirname(os.path.abspath(link)), root)
  return any(
    os.path.commonpath((target, os.path.realpath(folder))) == target
    for folder in folders
  )


def _read_file(folder: str, name: str) -> bytes:
  path = pathlib.Path(folder, name)
  try:
    _check_length(path.stat().st_size)
    return path.read_bytes()
  except PermissionError as error:
    raise BrokenImageError('there is no permission to read it') from error
  except OSError as error:
    if path.is_symlink() and not path.exists():
      target = os.readlink(path)
      raise BrokenImageError(f'its link leads nowhere (to {target})') from error
    raise


def _check_length(count: int) -> None:
  if count > MAX_FILE_BYTES:
    raise BrokenImageError(
      f'it has {count:,} bytes, more than {MAX_FILE_BYTES:,}'
    )


def _list_archive(source: str, path: str) -> Listing:
  try:
    archive = zipfile.ZipFile(path)
  except (
    OSError,
    ValueError,
    NotImplementedError,
    zipfile.BadZipFile,
  ) as error:
    raise InputError(f'{source} is damaged ({error}).') from error
  files: dict[str, zipfile.ZipInfo] = {}
  folders: set[str] = set()
  leftovers: set[str] = set()
  for info in archive.infolist():
    # Some programs on Windows write backslashes in .zip archives.
    parts = info.filename.replace('\\', '/').split('/')
    parts = [part for part in parts if part not in ('', '.')]
    name = '/'.join(parts)
    if '..' in parts:
      raise InputError(
        f'{source} holds {info.filename}, which lies outside of the archive; '
        'pack the folder of the classes again.'
      )
    if any(map(_is_leftover, parts)):
      index = next(k for k, part in enumerate(parts) if _is_leftover(part))
      leftovers.add('/'.join(parts[: index + 1]))
      continue
    prefix = parts if info.is_dir() else parts[:-1]
    folders |= {'/'.join(prefix[: k + 1]) for k in range(len(prefix))}
    if not info.is_dir():
      _check_entry(source, name, info)
      files[name] = info

  def read(name: str) -> bytes:
    _check_length(files[name].file_size)
    return archive.read(files[name])

  return _listing(source, files, folders, leftovers, read)


def _check_entry(archive: str, name: str, info: zipfile.ZipInfo) -> None:
  """Raises InputError if an archive entry cannot be read as a file."""
  if info.flag_bits & 1:
    raise InputError(f'{archive}: {name} is encrypted; unpack the archive.')
  if stat.S_ISLNK(info.external_attr >> 16) and not is_image(name):
    raise InputError(
      f'{archive}: {name} is a link inside the archive, which cannot be '
      'followed; pack what it leads to (zip without -y).'
    )
