"""The flags of every command."""

import argparse
from collections.abc import Callable, Mapping

from dit import published
from dit.errors import nearest
from guidance.parse import NAMES
from sample.metrics.measure import METRICS
from sample.metrics.resize import PRESETS
from sample.store import FORMATS
from train import cluster, exchange

Run = Callable[[argparse.Namespace], int | None]
_OF_USE = 'Config keys that change no weights can be set'


def _path(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError('is empty, expected a path')
  return text


def _weights(text: str) -> str:
  if text not in published.WEIGHTS and not text.startswith('ema:'):
    raise argparse.ArgumentTypeError(
      f'{text!r}, expected {" or ".join(published.WEIGHTS)}, or ema:WIDTH of a '
      f'run.{nearest(text, published.WEIGHTS)}'
    )
  return text


def _metrics(text: str) -> tuple[str, ...]:
  names = tuple({'fid': 'fd', 'sfid': 'sfd'}.get(n, n) for n in text.split(','))
  if wrong := [name for name in names if name not in METRICS]:
    raise argparse.ArgumentTypeError(
      f'{wrong[0]!r}, expected some of fid, sfid, {", ".join(METRICS)}.'
      + nearest(wrong[0], ('fid', 'sfid', *METRICS))
    )
  return names


def _metric(text: str) -> str:
  name, *more = _metrics(text)
  if more:
    raise argparse.ArgumentTypeError(f'{text!r}, expected one metric')
  return name


def add_commands(
  parser: argparse.ArgumentParser, runs: Mapping[str, Run]
) -> Mapping[str, argparse.ArgumentParser]:
  """Adds every command, and what carries it out; returns their parsers."""
  commands = parser.add_subparsers(dest='command', metavar='COMMAND')

  def command(name, text, epilog):
    sub = commands.add_parser(
      name,
      help=text,
      description=text,
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    sub.set_defaults(run=runs[name])
    return sub

  def command_of_run(name, text, example):
    sub = command(
      name,
      text,
      ('Any config key can be set' if name == 'train' else _OF_USE)
      + ': --config.KEY=VALUE, with the keys of configs/base.py.\n'
      f'Example: {example}',
    )
    where = sub.add_mutually_exclusive_group(required=name != 'train')
    where.add_argument('--workdir', type=_path, help='folder of the run')
    if name == 'sample':
      where.add_argument(
        '--folder', type=_path, help='of weights instead, made by convert'
      )
      where.add_argument(
        '--config', type=_path, help='file instead, for --dry_run'
      )
    else:
      sub.set_defaults(folder=None)
    return sub

  prepare = command(
    'prepare',
    'images to latent records for training; the same command again goes on',
    'Writes data.dir/data.name/SPLIT. Any config key can be set: '
    '--config.KEY=VALUE.\nExample: python main.py prepare '
    '--images=imagenet/train --config.data.name=imagenet256 \\\n'
    '           --config.data.autoencoder=sd_vae '
    '--autoencoder=sd_vae:vae.safetensors',
  )
  for flag, text in (
    (
      '--images',
      'folder or .zip of CLASS/IMAGE, or tfds:NAME[:SPLIT]; '
      'imagenet2012 from its tars, see docs/data.md',
    ),
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
    'train a network; the same command again continues',
    'python main.py train --workdir=runs/digits --config.optimizer.lr=1e-3',
  )
  train.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  distill = command(
    'distill',
    'a few-step student of a trained network; the same command again continues',
    'Any config key can be set: --config.KEY=VALUE. The first is one student, '
    'the second\na recipe of several stages (docs/distillation.md). Examples:\n'
    '  python main.py distill --config=configs/distill/digits.py:hybrid,4 \\\n'
    '    --teacher=runs/digits --workdir=runs/hybrid4\n'
    '  python main.py distill --config=configs/distill/digits.py:flash,4 \\\n'
    '    --teacher=runs/digits --workdir=runs/flash4',
  )
  for flag, text in (
    ('--config', 'file of configs/distill/'),
    ('--teacher', 'run (its average), or folder of weights'),
    ('--workdir', 'folder of the student'),
  ):
    needed = flag != '--workdir'  # not for --dry_run
    distill.add_argument(flag, type=_path, required=needed, help=text)
  for sub in (train, distill):
    sub.add_argument(
      '--stopped_status',
      type=int,
      default=0,
      help='exit status of a run that was stopped before its end, for '
      'launchers that start it again (%(default)s)',
    )
  sample = command_of_run(
    'sample',
    'draw images from a trained run, or a folder of weights; the same command '
    'again goes on',
    'python main.py sample --workdir=runs/digits '
    '--guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100\n'
    '         python main.py sample --folder=sit-xl-ig --num=16 '
    '--preset=sit_xl_ig_cfg --autoencoder=sd_vae:vae.safetensors',
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
    'guidance methods side by side: a table and pictures',
    'python main.py compare --workdir=runs/digits --config.compare.num=1000',
  )
  sweep = command_of_run(
    'sweep',
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
    '--metric',
    type=_metric,
    default='fd',
    help='as of evaluate --metrics (%(default)s)',
  )
  sweep.add_argument(
    '--num', type=int, default=500, help='images per point (%(default)s)'
  )
  report = command_of_run(
    'report',
    'a run as one HTML page: config, curves, samples, what guidance changes',
    'python main.py report --workdir=runs/digits --guidance=ig:1.5 '
    '--guidance=s2:1.5',
  )
  report.add_argument(
    '--guidance',
    action='append',
    default=[],
    help='to draw with, as for sample; again for more methods (those of '
    'log.preview_guidance and compare.methods)',
  )
  report.add_argument(
    '--no_draw',
    action='store_true',
    help='only what is in the workdir: reads no weights, leaves out what an '
    'earlier page had drawn',
  )
  evaluate = command(
    'evaluate',
    'scores of images against real ones: FID, sFID, IS, precision, recall',
    'Keys of the section eval of configs/base.py can be set: '
    '--config.eval.KEY=VALUE.\nExamples:\n'
    '  python main.py evaluate --workdir=runs/digits --guidance=ig:1.5 '
    '--num=500\n'
    '  python main.py evaluate --samples=samples.npz '
    '--preset=sit_xl_ig_cfg \\\n'
    '    --reference=VIRTUAL_imagenet256_labeled.npz \\\n'
    '    --extractor=inception:inception.safetensors',
  )
  what = evaluate.add_mutually_exclusive_group(required=True)
  for flag, text in (
    ('--samples', 'images: an .npz, a folder, a .zip, tfds:NAME:SPLIT'),
    ('--workdir', 'or the run to draw them from; they are not written'),
    ('--folder', 'or the folder of weights'),
  ):
    what.add_argument(flag, type=_path, help=text)
  reference = command(
    'reference',
    'statistics of real images, for evaluate --reference',
    'Example:\n  python main.py reference --images=imagenet/train '
    '--to=imagenet256.npz \\\n'
    '    --config.eval.image_size=256 --extractor=inception:FILE',
  )
  reference.add_argument(
    '--images',
    dest='reference',
    metavar='IMAGES',
    type=_path,
    help='an .npz, a folder, a .zip, tfds:NAME:SPLIT (the training split)',
  )
  features = command(
    'train-features',
    'a classifier of the training split, whose features measure distances',
    'Example:\n  python main.py train-features --config=configs/cifar10.py '
    '--to=features/cifar10\nThen: --extractor=classifier:features/cifar10',
  )
  features.add_argument('--steps', type=int, help='of training (by image size)')
  for sub in (reference, features):
    sub.add_argument(
      '--to', dest='target', type=_path, required=True, help='what to write'
    )
  for sub in (evaluate, reference):
    sub.add_argument(
      '--config', type=_path, help='file, whose data are the real images'
    )
  features.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  for sub in (evaluate, reference, sweep):
    sub.add_argument(
      '--extractor', help='inception:FILE, classifier[:FOLDER], FILE.py:NAME'
    )
    sub.add_argument('--preprocessing', help=', '.join(PRESETS))
  for sub in (evaluate, sweep):
    sub.add_argument(
      '--reference', help='statistics or images (the training split)'
    )
  evaluate.add_argument(
    '--metrics',
    type=_metrics,
    help='some of fid, sfid, is, kid, precision, recall, fd, accuracy, fd_inf, '
    'comma-separated (all that can be taken but the last)',
  )
  evaluate.add_argument(
    '--repeats', type=int, help='disjoint sets: mean and standard error (1)'
  )
  evaluate.add_argument(
    '--bootstrap', type=int, help='resamples behind a standard error (0)'
  )
  for sub in (sample, evaluate):
    sub.add_argument(
      '--guidance',
      help=f'methods {", ".join(NAMES)} as '
      'NAME:SCALE[:OPTION=VALUE][@LOW-HIGH], comma-separated; scale 1 is off, '
      't is 0 at the data (none)',
    )
    sub.add_argument(
      '--preset', help='published guidance and solver, of configs/presets.py'
    )
    sub.add_argument(
      '--labels',
      default=None if sub is evaluate else 'balanced',
      help='balanced, random, or classes such as 3,5 (balanced; evaluate '
      '--preset: random)',
    )
  for sub in (sample, evaluate, report):
    sub.add_argument(
      '--autoencoder',
      metavar='NAME:FILE[,FILE]',
      help='decodes latents: sd_vae, va_vae (with its file of statistics), '
      'taesd, ... and the published files (none: latents are images)',
    )
  sample.add_argument(
    '--num', type=int, default=100, help='images (%(default)s)'
  )
  evaluate.add_argument(
    '--num', type=int, help='images of each set (50,000, or all samples)'
  )
  for sub in (sample, sweep):
    sub.add_argument(
      '--overwrite',
      action='store_true',
      help='discard what --out holds of another protocol',
    )
  for sub in (sample, compare, sweep, evaluate, report):
    sub.add_argument(
      '--weights',
      type=_weights,
      help='of a run: ema, its moving average; raw, the parameters; ema:WIDTH, '
      'a power-function average (ema)',
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
    'weights from one kind of file to another',
    exchange.EXAMPLES,
  )
  exchange.add_flags(conversion, path=_path, weights=_weights)
  for sub in (
    prepare, train, distill, sample, evaluate, reference, features,
  ):  # fmt: skip
    cluster.add_flags(sub)
  for sub in (train, distill, sample):
    sub.add_argument(
      '--dry_run',
      action='store_true',
      help='only say what it would be: sizes, FLOPs, memory of weights and '
      'optimiser on each device',
    )
  for sub in (train, sample):
    sub.add_argument(
      '--topology',
      type=_path,
      help='with --dry_run: compile for TPU chips such as v5p:4x4x4, which '
      'need not be here (needs libtpu)',
    )
  return commands.choices
