"""Flags that several commands share, and functions that parse their values.

Names are repeated here because importing the modules that define them takes
seconds. A test checks that both lists agree.
"""

import argparse
from typing import Any

from core.errors import InputError, nearest
from core.ranges import PathText, WebText, check_value

METHODS = (
  'ig', 'cfg', 'cfg++', 'cfg_zero', 'apg', 'tcfg', 'fdg', 'icg', 's2', 'slg',
  'auto', 'rescale',
)  # fmt: skip
METRICS = (
  'fd', 'sfd', 'is', 'kid', 'precision', 'recall', 'accuracy', 'fd_inf',
)  # fmt: skip
# Common names of two metrics.
METRIC_ALIASES = {'fid': 'fd', 'sfid': 'sfd'}
RESIZES = ('adm', 'torch_fidelity', 'pytorch_fid', 'clean_fid')
FORMATS = ('npz', 'png')
WEIGHTS = ('ema', 'raw')
FAMILIES = (
  'dit', 'sit', 'ig_sit', 'repa', 'lightningdit', 'ig_lightningdit',
  'inception',
)  # fmt: skip
SCHEMES = ('int8', 'int6', 'int4')
FREE_KEYS = (
  'Config keys that change no weights can be set: --config.KEY=VALUE, with the '
  'keys of configs/base.py.'
)
ALL_KEYS = (
  'Any config key can be set: --config.KEY=VALUE, with the keys of '
  'configs/base.py.'
)
AUTOENCODER = 'NAME:FILE[,FILE]'


def path(text: str) -> str:
  """Parses a path."""
  return _checked(text, PathText)


def web_path(text: str) -> str:
  """Parses a path, or an address at hf:// or https://."""
  return _checked(text, WebText)


def _checked(text: str, declaration: Any) -> str:
  if not text:
    raise argparse.ArgumentTypeError('is empty, expected a path')
  try:
    check_value('the value', text, declaration)
  except InputError as error:
    raise argparse.ArgumentTypeError(str(error)) from error
  return text


def weights(text: str) -> str:
  """Parses ema, raw or ema:WIDTH."""
  if text not in WEIGHTS and not text.startswith('ema:'):
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected {" or ".join(WEIGHTS)}, or ema:WIDTH of a '
      f'run.{nearest(text, WEIGHTS)}'
    )
  return text


def metrics(text: str) -> tuple[str, ...]:
  """Parses metrics separated by commas."""
  names = tuple(METRIC_ALIASES.get(name, name) for name in text.split(','))
  known = (*METRIC_ALIASES, *METRICS)
  if wrong := [name for name in names if name not in METRICS]:
    raise argparse.ArgumentTypeError(
      f'{wrong[0]!r}, expected some of {", ".join(known)}.'
      + nearest(wrong[0], known)
    )
  return names


def metric(text: str) -> str:
  """Parses the name of one metric."""
  name, *more = metrics(text)
  if more:
    raise argparse.ArgumentTypeError(f'{text!r}, expected one metric')
  return name


def exit_status(text: str) -> int:
  """Parses an exit status."""
  if not (text.isdecimal() and int(text) < 256):
    raise argparse.ArgumentTypeError(f'{text!r}, expected 0 to 255')
  return int(text)


def blocks(text: str) -> tuple[int, ...]:
  """Parses numbers of blocks separated by commas."""
  try:
    return tuple(int(word) for word in text.split(','))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected numbers of blocks such as 8'
    ) from None


def add_workdir(parser: argparse.ArgumentParser) -> None:
  """Adds --workdir for a command that reads a run."""
  parser.add_argument(
    '--workdir', type=path, required=True, help='folder of the run'
  )


def add_source(parser: argparse.ArgumentParser) -> None:
  """Adds weights, decoder and seed for sampling, and the output folder."""
  parser.add_argument(
    '--weights',
    type=weights,
    help='weights of a run: ema (moving average), raw (parameters) or '
    'ema:WIDTH (power-function average) (ema)',
  )
  parser.add_argument(
    '--step', type=int, help='checkpoint of a run (the newest)'
  )
  add_autoencoder(parser)
  parser.add_argument(
    '--guide', help='run or folder of the weaker network of guidance auto'
  )
  parser.add_argument(
    '--guide_step', type=int, help='checkpoint of the guide (the newest)'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='seed of all noise (%(default)s)'
  )
  parser.add_argument(
    '--out',
    type=path,
    help='folder for the results (in the workdir)',
  )


def add_drawing(parser: argparse.ArgumentParser) -> None:
  """Adds guidance, preset and labels."""
  parser.add_argument(
    '--guidance',
    help=f'methods {", ".join(METHODS)} as '
    'NAME:SCALE[:OPTION=VALUE][@LOW-HIGH], separated by commas; scale 1 is '
    'off, t is 0 at the data (none)',
  )
  parser.add_argument(
    '--preset',
    help='published settings by name (configs/presets.py): guidance, sampler, '
    'precision, labels and number of images',
  )
  parser.add_argument(
    '--labels',
    help='balanced, random, or classes by number or name, such as 3,bird '
    '(balanced; with --preset: random)',
  )


def add_autoencoder(parser: argparse.ArgumentParser) -> None:
  """Adds the autoencoder that decodes latents."""
  parser.add_argument(
    '--autoencoder',
    metavar=AUTOENCODER,
    type=web_path,
    help='decoder of latents: name (sd_vae, taesd, va_vae with its statistics '
    'file, ...) and published files or their folder (the autoencoder that the '
    'data or the run records)',
  )


def add_extractor(parser: argparse.ArgumentParser) -> None:
  """Adds the feature extractor and its preprocessing."""
  parser.add_argument(
    '--extractor',
    help='feature extractor: inception:FILE, classifier[:FOLDER], pixels or '
    'FILE.py:NAME',
  )
  parser.add_argument('--preprocessing', help=', '.join(RESIZES))


def add_standard_errors(parser: argparse.ArgumentParser) -> None:
  """Adds the estimators of standard errors."""
  parser.add_argument(
    '--repeats',
    type=int,
    help='number of disjoint sets, for a standard error (1)',
  )
  parser.add_argument(
    '--bootstrap', type=int, help='number of resamples for a standard error (0)'
  )


def add_reference_flag(parser: argparse.ArgumentParser) -> None:
  """Adds the real images to compare with."""
  parser.add_argument(
    '--reference', help='real images, or their statistics (the training split)'
  )


def add_real_images_config(parser: argparse.ArgumentParser) -> None:
  """Adds the config of the real images."""
  parser.add_argument(
    '--config',
    type=path,
    help='config file of the real images',
  )


def add_target(parser: argparse.ArgumentParser) -> None:
  """Adds the target path."""
  parser.add_argument(
    '--to', dest='target', type=path, required=True,
    help='file or folder to write',
  )  # fmt: skip


def add_overwrite(parser: argparse.ArgumentParser) -> None:
  """Adds --overwrite."""
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='discard results of another protocol in --out',
  )


def add_stopped_status(parser: argparse.ArgumentParser) -> None:
  """Adds --stopped_status."""
  parser.add_argument(
    '--stopped_status',
    type=exit_status,
    default=0,
    help='exit status of a run that stopped early, for launchers that restart '
    'it (%(default)s)',
  )


def add_dry_run(
  parser: argparse.ArgumentParser, *, topology: bool = False
) -> None:
  """Adds --dry_run and, if `topology`, --topology."""
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='only print sizes, FLOPs, and the memory of weights and optimizer '
    'on each device',
  )
  if topology:
    parser.add_argument(
      '--topology',
      type=path,
      help='with --dry_run: TPU chips to compile for, such as v5p:4x4x4, '
      'attached or not (needs libtpu)',
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that `cluster.join` reads."""
  group = parser.add_argument_group('many processes')
  group.add_argument(
    '--distributed',
    action='store_true',
    help='run as one process of a Cloud TPU, GKE, Slurm or Open MPI job, or '
    'of the job that these flags describe:',
  )
  group.add_argument(
    '--coordinator', metavar='HOST:PORT', help='address of the first process'
  )
  group.add_argument(
    '--num_processes', type=int, help='number of processes of the job'
  )
  group.add_argument(
    '--process_id', type=int, help='index of this process, from 0'
  )
  group.add_argument(
    '--heartbeat_seconds',
    type=int,
    default=100,
    help='seconds after which a silent process counts as dead (%(default)s)',
  )
