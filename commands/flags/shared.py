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
  '--config.KEY=VALUE sets a key of configs/base.py that changes no weights.'
)
ALL_KEYS = '--config.KEY=VALUE sets any key of configs/base.py.'
AUTOENCODER = 'NAME:FILE[,FILE]'

Flags = argparse._ActionsContainer  # a parser, or a group of its flags


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


def groups(
  parser: argparse.ArgumentParser, *titles: str
) -> list[argparse._ArgumentGroup]:
  """Returns groups of flags, which --help shows in this order."""
  return [parser.add_argument_group(title) for title in titles]


def add_workdir(flags: Flags) -> None:
  """Adds --workdir for a command that reads a run."""
  flags.add_argument(
    '--workdir',
    metavar='RUN',
    type=path,
    required=True,
    help='folder of the run (required)',
  )


def add_weights(flags: Flags) -> None:
  """Adds the choice among a run's weights."""
  flags.add_argument(
    '--weights',
    type=weights,
    help='weights of a run: ema (moving average), raw (parameters) or '
    'ema:WIDTH (power-function average) (default: ema)',
  )
  flags.add_argument(
    '--step',
    metavar='STEP',
    type=int,
    help='checkpoint of a run (default: the newest)',
  )


def add_guide(flags: Flags) -> None:
  """Adds the guide of autoguidance, and the seed."""
  flags.add_argument(
    '--guide',
    metavar='PLACE',
    help='run or folder of the weaker network, for the method auto',
  )
  flags.add_argument(
    '--guide_step',
    metavar='STEP',
    type=int,
    help='checkpoint of the guide (default: the newest)',
  )
  flags.add_argument(
    '--seed',
    metavar='N',
    type=int,
    default=0,
    help='seed of all noise (default: %(default)s)',
  )


def add_out(flags: Flags) -> None:
  """Adds the folder for the results."""
  flags.add_argument(
    '--out',
    metavar='FOLDER',
    type=path,
    help='folder for the results (default: a folder in the workdir)',
  )


def add_guidance(flags: Flags) -> None:
  """Adds guidance and preset."""
  flags.add_argument(
    '--guidance',
    metavar='METHODS',
    help='methods separated by commas, each as '
    'NAME:SCALE[:OPTION=VALUE][@LOW-HIGH]; names are '
    f'{", ".join(METHODS)}; scale 1 is off; LOW and HIGH bound t, which is 0 '
    'at the data (default: none)',
  )
  flags.add_argument(
    '--preset',
    metavar='NAME',
    help='published settings of guidance, sampler, precision, labels and '
    'number of images (configs/presets.py lists them)',
  )


def add_labels(flags: Flags) -> None:
  """Adds the labels of the images."""
  flags.add_argument(
    '--labels',
    help='balanced, random, or classes by number or name, such as 3,bird '
    '(default: balanced; with --preset: random)',
  )


def add_autoencoder(flags: Flags) -> None:
  """Adds the autoencoder that decodes latents."""
  flags.add_argument(
    '--autoencoder',
    metavar=AUTOENCODER,
    type=web_path,
    help='decoder of latents: its name (sd_vae, taesd, va_vae, ...) and '
    'published files or their folder (default: the autoencoder that the data '
    'or the run records)',
  )


def add_extractor(flags: Flags) -> None:
  """Adds the feature extractor and its preprocessing."""
  flags.add_argument(
    '--extractor',
    metavar='NAME',
    help='feature extractor: inception:FILE, classifier[:FOLDER], pixels or '
    'FILE.py:NAME (default: classifier)',
  )
  flags.add_argument(
    '--preprocessing',
    metavar='NAME',
    help=f'how images are resized for Inception: {", ".join(RESIZES)} '
    '(default: adm)',
  )


def add_standard_errors(flags: Flags) -> None:
  """Adds the estimators of standard errors."""
  flags.add_argument(
    '--repeats',
    metavar='N',
    type=int,
    help='number of disjoint sets, for a standard error (default: 1)',
  )
  flags.add_argument(
    '--bootstrap',
    metavar='N',
    type=int,
    help='number of resamples, for a standard error (default: 0)',
  )


def add_reference_flag(flags: Flags) -> None:
  """Adds the real images to compare with."""
  flags.add_argument(
    '--reference',
    metavar='IMAGES',
    help='real images, or their statistics (default: the training split)',
  )


def add_real_images_config(flags: Flags) -> None:
  """Adds the config of the real images."""
  flags.add_argument(
    '--config',
    metavar='FILE',
    type=path,
    help='config file that names the real images',
  )


def add_target(flags: Flags) -> None:
  """Adds the target path."""
  flags.add_argument(
    '--to', dest='target', metavar='PATH', type=path, required=True,
    help='file or folder to write (required)',
  )  # fmt: skip


def add_overwrite(flags: Flags) -> None:
  """Adds --overwrite."""
  flags.add_argument(
    '--overwrite',
    action='store_true',
    help='discard results of another protocol in --out (default: an error)',
  )


def add_stopped_status(flags: Flags) -> None:
  """Adds --stopped_status."""
  flags.add_argument(
    '--stopped_status',
    metavar='STATUS',
    type=exit_status,
    default=0,
    help='exit status of a run that stopped early, for launchers that restart '
    'it (default: %(default)s)',
  )


def add_dry_run(
  parser: argparse.ArgumentParser, *, topology: bool = False
) -> None:
  """Adds --dry_run and, if `topology`, --topology."""
  group = parser.add_argument_group('before a long job')
  group.add_argument(
    '--dry_run',
    action='store_true',
    help='only print sizes, FLOPs, and the memory of weights and optimizer '
    'on each device',
  )
  if topology:
    group.add_argument(
      '--topology',
      metavar='NAME',
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
    'of the job that the next three flags describe',
  )
  group.add_argument(
    '--coordinator', metavar='HOST:PORT', help='address of the first process'
  )
  group.add_argument(
    '--num_processes', metavar='N', type=int,
    help='number of processes of the job',
  )  # fmt: skip
  group.add_argument(
    '--process_id', metavar='N', type=int,
    help='index of this process, from 0',
  )  # fmt: skip
  group.add_argument(
    '--heartbeat_seconds',
    metavar='N',
    type=int,
    default=100,
    help='seconds after which a silent process counts as dead '
    '(default: %(default)s)',
  )
