"""Flags that several commands share, and functions that parse their values.

The lists of names are copies from other modules, whose import takes seconds. A
test checks that the copies agree with the originals.
"""

import argparse
from typing import Any, Self

from core.errors import InputError, nearest
from core.ranges import PathText, WebText, check_value

METHODS = (
  'ig', 'cfg', 'cfg++', 'cfg_zero', 'apg', 'tcfg', 'fdg', 'icg', 's2', 'slg',
  'auto', 'rescale',
)  # fmt: skip
METRICS = (
  'fd', 'sfd', 'is', 'kid', 'precision', 'recall', 'accuracy', 'fd_inf',
)  # fmt: skip
# This project's names for two metrics, keyed by the common names.
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


def path(text: str) -> str:
  """Parses a path."""
  return _checked(text, PathText)


def web_path(text: str) -> str:
  """Parses a path, or an address that starts with hf:// or https://."""
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
  """Parses 'ema', 'raw' or 'ema:WIDTH'."""
  if text not in WEIGHTS and not text.startswith('ema:'):
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected {" or ".join(WEIGHTS)}, or ema:WIDTH of a '
      f'run.{nearest(text, WEIGHTS)}'
    )
  return text


def metrics(text: str) -> tuple[str, ...]:
  """Parses metrics separated by commas."""
  names = tuple(METRIC_ALIASES.get(name, name) for name in text.split(','))
  choices = (*METRIC_ALIASES, *METRICS)
  if invalid := [name for name in names if name not in METRICS]:
    raise argparse.ArgumentTypeError(
      f'{invalid[0]!r}, expected some of {", ".join(choices)}.'
      + nearest(invalid[0], choices)
    )
  return names


def metric(text: str) -> str:
  """Parses the name of one metric."""
  name, *others = metrics(text)
  if others:
    raise argparse.ArgumentTypeError(f'{text!r}, expected one metric')
  return name


def exit_status(text: str) -> int:
  """Parses an exit status."""
  if not (text.isdecimal() and int(text) < 256):
    raise argparse.ArgumentTypeError(f'{text!r}, expected 0 to 255')
  return int(text)


def blocks(text: str) -> tuple[int, ...]:
  """Parses block numbers separated by commas."""
  try:
    return tuple(int(word) for word in text.split(','))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected numbers of blocks such as 8'
    ) from None


class Group:
  """A group of flags that --help shows under one title."""

  def __init__(self, flags: argparse._ActionsContainer) -> None:
    self._flags = flags

  def add(
    self, flag: str, text: str, default: Any = None, **options: Any
  ) -> None:
    """Adds a flag.

    Args:
      flag: Name, with a placeholder if the flag has a value, such as '--num=N'.
      text: Description for --help. The default is appended to this text.
      default: Default value. If it is an integer, the flag's type is integer.
      **options: Options of `argparse.ArgumentParser.add_argument`.
    """
    name, _, placeholder = flag.partition('=')
    if not placeholder:
      self._flags.add_argument(name, help=text, action='store_true', **options)
      return
    if options.get('required'):
      text += ' (required)'
    if default is not None:
      text += ' (default: %(default)s)'
    if isinstance(default, int):
      options.setdefault('type', int)
    self._flags.add_argument(
      name, metavar=placeholder, help=text, default=default, **options
    )

  def choice(self) -> Self:
    """Returns a subgroup; users must specify exactly one of its flags."""
    return type(self)(self._flags.add_mutually_exclusive_group(required=True))


def groups(parser: argparse.ArgumentParser, *titles: str) -> list[Group]:
  """Returns a group of flags for each title, in the order of --help."""
  return [Group(parser.add_argument_group(title)) for title in titles]


def add_workdir(group: Group) -> None:
  """Adds --workdir for a command that reads a run."""
  group.add('--workdir=RUN', 'folder of the run', type=path, required=True)


def add_source(group: Group) -> Group:
  """Adds --workdir and --folder, of which users must specify one.

  Returns the group of both, for other sources.
  """
  source = group.choice()
  source.add('--workdir=RUN', 'folder of the run', type=path)
  source.add(
    '--folder=FOLDER',
    'folder of weights written by convert, or hf://ORG/NAME',
    type=web_path,
  )
  return source


def add_weights(group: Group) -> None:
  """Adds --weights and --step, which choose weights of a run."""
  group.add(
    '--weights=WEIGHTS',
    'weights of a run: ema (moving average), raw (parameters) or ema:WIDTH, a '
    'power-function average (default: ema)',
    type=weights,
  )
  group.add(
    '--step=STEP', 'step of the checkpoint (default: the newest)', type=int
  )


def add_guide(group: Group) -> None:
  """Adds --guide and --guide_step for AutoGuidance, and --seed."""
  group.add(
    '--guide=PLACE',
    "run or folder of the weaker network, for AutoGuidance (method 'auto')",
  )
  group.add(
    '--guide_step=STEP',
    "step of the guide's checkpoint (default: the newest)",
    type=int,
  )
  group.add('--seed=N', 'seed of all noise', default=0)


def add_out(group: Group) -> None:
  """Adds --out, the folder for the results."""
  group.add(
    '--out=FOLDER',
    'folder for the results (default: a folder in the workdir)',
    type=path,
  )


def add_guidance(group: Group) -> None:
  """Adds --guidance and --preset."""
  group.add(
    '--guidance=METHODS',
    'methods separated by commas, each as '
    'NAME:SCALE[:OPTION=VALUE][@LOW-HIGH]; names are '
    f'{", ".join(METHODS)}; scale 1 turns a method off; @LOW-HIGH limits a '
    'method to times from LOW to HIGH, where 0 is data and 1 is noise '
    '(default: none)',
  )
  group.add(
    '--preset=NAME',
    'name of published settings of guidance, sampler, precision, labels and '
    'number of images (configs/presets.py lists the names)',
  )


def add_labels(group: Group) -> None:
  """Adds --labels, the labels of the images."""
  group.add(
    '--labels=LABELS',
    'labels of images: balanced, random, or a list of class indices or names, '
    'such as 3,bird (default: balanced; with --preset: random)',
  )


def add_autoencoder(group: Group) -> None:
  """Adds --autoencoder, the autoencoder that decodes latents."""
  group.add(
    f'--autoencoder={AUTOENCODER}',
    'decoder of latents: its name (sd_vae, taesd, va_vae, ...) and published '
    'files or their folder (default: the autoencoder stored with the data or '
    'the run)',
    type=web_path,
  )


def add_extractor(group: Group) -> None:
  """Adds --extractor and --preprocessing, which define the features."""
  group.add(
    '--extractor=NAME',
    'feature extractor: inception:FILE, classifier[:FOLDER], pixels or '
    'FILE.py:NAME (default: classifier)',
  )
  group.add(
    '--preprocessing=NAME',
    f'resizing of images for Inception: {", ".join(RESIZES)} (default: adm)',
  )


def add_standard_errors(group: Group) -> None:
  """Adds --repeats and --bootstrap for standard errors."""
  group.add(
    '--repeats=N',
    'number of disjoint sets of images, for a standard error (default: 1)',
    type=int,
  )
  group.add(
    '--bootstrap=N',
    'number of resamples for a bootstrap standard error (default: 0)',
    type=int,
  )


def add_reference_flag(group: Group) -> None:
  """Adds --reference, the real images to compare with."""
  group.add(
    '--reference=IMAGES',
    'real images, or their statistics (default: the training split)',
  )


def add_real_images_config(group: Group) -> None:
  """Adds --config, the config file that names the real images."""
  group.add(
    '--config=FILE', 'config file that names the real images', type=path
  )


def add_target(group: Group) -> None:
  """Adds --to, the target path."""
  group.add(
    '--to=PATH', 'file or folder to write', type=path, dest='target',
    required=True,
  )  # fmt: skip


def add_overwrite(group: Group) -> None:
  """Adds --overwrite."""
  group.add(
    '--overwrite',
    'discard results in --out that have other settings (default: stop with an '
    'error)',
  )


def add_stopped_status(group: Group) -> None:
  """Adds --stopped_status."""
  group.add(
    '--stopped_status=STATUS',
    'exit status of a run that stopped early, for launchers that restart it',
    default=0,
    type=exit_status,
  )


def add_dry_run(
  parser: argparse.ArgumentParser, *, topology: bool = False
) -> None:
  """Adds --dry_run and, if `topology` is true, --topology."""
  (group,) = groups(parser, 'before a long job')
  group.add(
    '--dry_run',
    'only print sizes, FLOPs, and the memory of weights and optimizer on each '
    'device',
  )
  if topology:
    group.add(
      '--topology=NAME',
      'with --dry_run: TPU chips to compile for, such as v5p:4x4x4, attached '
      'or not (needs libtpu)',
      type=path,
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds --distributed and the other flags that `cluster.join` reads."""
  (group,) = groups(parser, 'many processes')
  group.add(
    '--distributed',
    'run as one process of a job, which is detected on Cloud TPU, GKE, Slurm '
    'and Open MPI; elsewhere, the next three flags describe the job',
  )
  group.add('--coordinator=HOST:PORT', 'address of the first process')
  group.add('--num_processes=N', 'number of processes of the job', type=int)
  group.add('--process_id=N', 'index of this process, from 0', type=int)
  group.add(
    '--heartbeat_seconds=N',
    'seconds after which a silent process counts as dead',
    default=100,
  )
