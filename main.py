"""The command line: config -> frozen dataclasses, once; one call per command.

  python main.py prepare --images=photos --config.data.name=photos
  python main.py train   --config=configs/digits.py --workdir=runs/digits
  python main.py sample  --workdir=runs/digits --guidance=ig:1.5,cfg:1.2
  python main.py compare --workdir=runs/digits
  python main.py sweep   --workdir=runs/digits --guidance=ig:1..2:6,cfg:1..2:6
  python main.py convert --from=runs/digits --to=digits-ema
  python main.py sample  --folder=digits-ema --config.sample.steps=50

Exit status: 0 done, or stopped as asked with everything saved; 1 failed;
2 the input cannot work, said in one line.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from dit import convert, published
from dit.config import nearest
from dit.types import InputError
from guidance.parse import NAMES
from sample.store import FORMATS, WriteError
from sample.sweep import METRICS
from train import checkpoint, exchange, loop, preparing, sampling, workdir
from train.data.shards import PrepareError
from train.experiment import build
from train.log import set_up_logging
from train.settings import load_config, override
from train.trained import Source

_COMMANDS = ('prepare', 'train', 'sample', 'compare', 'sweep', 'convert')


def _prepare(args: argparse.Namespace) -> None:
  config = override(load_config(args.config), args.overrides).to_dict()
  experiment = build(config)
  if args.verify:
    print(preparing.verify(experiment, args.split))
  elif args.images is None:
    raise InputError('--images is needed: a folder, a .zip, or tfds:NAME.')
  else:
    print(
      preparing.prepare(experiment, args.images, args.split, args.autoencoder)
    )


def _train(args: argparse.Namespace) -> None:
  config = override(load_config(args.config), args.overrides).to_dict()
  experiment = build(config)
  loop.check(experiment)
  loop.train(experiment, workdir.claim(args.workdir, config))


def _request(
  args: argparse.Namespace, overrides: Sequence[str] = ()
) -> sampling.Request:
  """What the sampling commands share; the user's assignments come last."""
  guide = None
  if args.guide:
    guide = Source.at(args.guide, step=args.guide_step)
  elif args.guide_step is not None:
    raise InputError('--guide_step needs --guide.')
  source = Source(
    args.workdir or args.folder, bool(args.workdir), args.weights, args.step
  )
  return sampling.Request(
    source, [*overrides, *args.overrides], guide, args.seed, args.out
  )


def _sample(args: argparse.Namespace) -> None:
  guidance, overrides = args.guidance, []
  if args.preset is not None:
    published_guidance, overrides = sampling.preset(args.preset)
    guidance = guidance or published_guidance
  sampling.sample(
    _request(args, overrides),
    guidance or 'none',
    num=args.num,
    labels=args.labels,
    autoencoder=args.autoencoder,
    form=args.format,
    overwrite=args.overwrite,
  )


def _compare(args: argparse.Namespace) -> None:
  print(sampling.compare(_request(args)))


def _sweep(args: argparse.Namespace) -> None:
  table = sampling.sweep(
    _request(args),
    args.guidance,
    metric=args.metric,
    num=args.num,
    overwrite=args.overwrite,
  )
  print(table, end='')


def _convert(args: argparse.Namespace) -> None:
  report = exchange.exchange(
    args.source,
    args.target,
    family=args.family,
    num_heads=args.num_heads,
    taps=args.taps,
    null_label=False if args.no_null_label else None,
    weights=args.weights,
  )
  print(report)


class _Parser(argparse.ArgumentParser):
  """Errors are one line, with the nearest known word."""

  def error(self, message: str) -> NoReturn:
    raise InputError(message)


def _path(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError('is empty, expected a path')
  return text


def _blocks(text: str) -> tuple[int, ...]:
  try:
    return tuple(int(word) for word in text.split(','))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected numbers of blocks such as 8'
    ) from None


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='main.py',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest='command', metavar='COMMAND')

  def command(name, run, text, epilog):
    sub = commands.add_parser(
      name,
      help=text,
      description=text,
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    sub.set_defaults(run=run)
    return sub

  def command_of_run(name, run, text, example):
    sub = command(
      name,
      run,
      text,
      'Any config key can be set: --config.KEY=VALUE, with the keys of '
      f'configs/base.py.\nExample: {example}',
    )
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument('--workdir', type=_path, help='folder of the run')
    if run is _sample:
      where.add_argument(
        '--folder', type=_path, help='of weights instead, made by convert'
      )
    else:
      sub.set_defaults(folder=None)
    return sub

  prepare = command(
    'prepare',
    _prepare,
    'images to latent records for training; the same command again goes on',
    'Writes data.dir/data.name/SPLIT. Any config key can be set: '
    '--config.KEY=VALUE.\nExample: python main.py prepare '
    '--images=imagenet/train --config.data.name=imagenet256 \\\n'
    '           --config.data.autoencoder=sd_vae '
    '--autoencoder=sd_vae:vae.safetensors',
  )
  for flag, text in (
    ('--images', 'folder or .zip of CLASS/IMAGE, or tfds:NAME[:SPLIT]'),
    ('--autoencoder', 'NAME:FILE[,FILE] that encodes (none: pixels)'),
  ):
    prepare.add_argument(flag, type=_path, help=text)
  for flag, value, text in (
    ('--config', 'configs/base.py', 'config file'),
    ('--split', 'train', 'of the records'),
  ):
    prepare.add_argument(flag, default=value, help=f'{text} (%(default)s)')
  prepare.add_argument(
    '--verify', action='store_true', help='only read all records again'
  )
  train = command_of_run(
    'train',
    _train,
    'train a network; the same command again continues',
    'python main.py train --workdir=runs/digits --config.optimizer.lr=1e-3',
  )
  train.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  sample = command_of_run(
    'sample',
    _sample,
    'draw images from a trained run, or a folder of weights; the same command '
    'again goes on',
    'python main.py sample --workdir=runs/digits '
    '--guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100\n'
    '         python main.py sample --folder=sit-xl-ig --num=16 '
    '--preset=sit_xl_ig_cfg --autoencoder=sd_vae:vae.safetensors',
  )
  sample.add_argument(
    '--guidance',
    help=f'methods {", ".join(NAMES)} as NAME:SCALE[:OPTION=VALUE][@LOW-HIGH], '
    'comma-separated; scale 1 is off, t is 0 at the data (none)',
  )
  sample.add_argument(
    '--preset', help='published guidance and solver, of configs/presets.py'
  )
  sample.add_argument(
    '--num', type=int, default=100, help='images (%(default)s)'
  )
  sample.add_argument(
    '--labels',
    default='balanced',
    help='balanced, random, or classes such as 3,5 (%(default)s)',
  )
  sample.add_argument(
    '--autoencoder',
    metavar='NAME:FILE[,FILE]',
    help='decodes latents: sd_vae, va_vae (with its file of statistics), '
    'taesd, ... and the published files (none: latents are images)',
  )
  sample.add_argument(
    '--format',
    choices=FORMATS,
    default='npz',
    help='one samples.npz for the ADM evaluator, or a folder of PNG '
    '(%(default)s)',
  )
  compare = command_of_run(
    'compare',
    _compare,
    'guidance methods side by side: a table and pictures',
    'python main.py compare --workdir=runs/digits --config.compare.num=1000',
  )
  sweep = command_of_run(
    'sweep',
    _sweep,
    'a metric over one or two guidance scales: a table and a picture',
    'python main.py sweep --workdir=runs/digits '
    '--guidance=ig:1.0..2.0:6,cfg:1.0..2.0:6 --metric=fd',
  )
  sweep.add_argument(
    '--guidance',
    required=True,
    help='as for sample, one or two scales being LOW..HIGH:COUNT',
  )
  sweep.add_argument(
    '--metric', choices=tuple(METRICS), default='fd', help='(%(default)s)'
  )
  sweep.add_argument(
    '--num', type=int, default=500, help='images per point (%(default)s)'
  )
  for sub in (sample, sweep):
    sub.add_argument(
      '--overwrite',
      action='store_true',
      help='discard what --out holds of another protocol',
    )
  for sub in (sample, compare, sweep):
    sub.add_argument(
      '--weights',
      choices=tuple(checkpoint.WEIGHTS),
      help='of a run, the moving average or the raw parameters (ema)',
    )
    sub.add_argument(
      '--step', type=int, help='of a run, the checkpoint (the newest)'
    )
    sub.add_argument(
      '--guide', help='run or folder of the weaker network of guidance auto'
    )
    sub.add_argument(
      '--guide_step', type=int, help='its checkpoint (the newest)'
    )
    sub.add_argument(
      '--seed', type=int, default=0, help='of all noise (%(default)s)'
    )
    sub.add_argument(
      '--out', type=_path, help='folder for the results (in the workdir)'
    )
  conversion = command(
    'convert',
    _convert,
    'weights from one kind of file to another',
    exchange.EXAMPLES,
  )
  for flag, name, text in (
    ('--from', 'source', 'published file (or hf://org/name/file), folder of '
     'weights, or workdir of a run'),
    ('--to', 'target', 'new published file if it ends with .safetensors, else '
     'new folder'),
  ):  # fmt: skip
    conversion.add_argument(
      flag, dest=name, metavar='PATH', type=_path, required=True, help=text
    )
  conversion.add_argument(
    '--family',
    help=f'whose published files: {", ".join(convert.FAMILIES)}',
  )
  conversion.add_argument(
    '--num_heads', type=int, help='of a published source of unusual width'
  )
  conversion.add_argument(
    '--taps',
    type=_blocks,
    help='of a published source with a head inside: the blocks before it',
  )
  conversion.add_argument(
    '--no_null_label',
    action='store_true',
    help='a published source whose last label is a class: no CFG',
  )
  conversion.add_argument(
    '--weights',
    choices=tuple(published.WEIGHTS),
    help='the moving average or the raw parameters (ema, or all there are)',
  )
  return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
  """Arguments, with `overrides` the assignments of --config.KEY=VALUE."""
  rest, overrides = [], []
  for word in argv:
    if word.startswith('--config.'):
      overrides.append(word.removeprefix('--config.'))
    else:
      rest.append(word)
  parser = _parser()
  known = f'the commands are {", ".join(_COMMANDS)}.'
  if not rest:
    raise InputError(f'no command; {known}')
  if rest[0] not in (*_COMMANDS, '-h', '--help'):
    raise InputError(
      f'unknown command {rest[0]!r}; {known}{nearest(rest[0], _COMMANDS)}'
    )
  args = parser.parse_args(rest)
  if overrides and args.command == 'convert':
    raise InputError(f'convert reads no config: leave out {overrides[0]!r}.')
  args.overrides = overrides
  return args


def main(argv: Sequence[str]) -> int:
  """Runs one command and returns the exit status."""
  set_up_logging()
  try:
    args = parse_args(argv)
    args.run(args)
  except InputError as error:
    print(f'main.py: {error}', file=sys.stderr)
    return 2
  except (loop.NonFiniteError, PrepareError, WriteError) as error:
    print(f'main.py: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('main.py: interrupted.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
