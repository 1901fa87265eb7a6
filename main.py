"""The command line: config -> frozen dataclasses, once; one call per command.

  python main.py train   --config=configs/digits.py --workdir=runs/digits
  python main.py sample  --workdir=runs/digits --guidance=ig:1.5,cfg:1.2
  python main.py compare --workdir=runs/digits
  python main.py convert --from=runs/digits --to=digits-ema
  python main.py sample  --folder=digits-ema --config.sample.steps=50

Exit status: 0 done, or stopped as asked with everything saved; 1 failed;
2 the input cannot work, said in one line.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import logging
from jax.sharding import Mesh

from dit import convert, model, published
from dit.config import nearest
from dit.path import path_named
from dit.sharding import make_mesh
from dit.types import InputError
from guidance import parse
from guidance.parse import describe
from sample import compare as compare_lib
from sample import generate, sampler, writer
from train import checkpoint, exchange, loop, trained, workdir
from train.data.source import check_source, load_all, open_source
from train.experiment import Experiment, build
from train.log import progress_bar, set_up_logging
from train.settings import load_config, override

_COMMANDS = ('train', 'sample', 'compare', 'convert')


def _train(args: argparse.Namespace) -> None:
  config = override(load_config(args.config), args.overrides).to_dict()
  experiment = build(config)
  loop.check(experiment)
  loop.train(experiment, workdir.claim(args.workdir, config))


def _open(args: argparse.Namespace) -> tuple[Experiment, Mesh]:
  """What the command is about, without its weights, and the devices."""
  if not 0 <= args.seed < 2**32:
    raise InputError(f'--seed is {args.seed}, expected 0 to 2^32 - 1.')
  if args.folder:
    experiment = trained.open_folder(args.folder, args.overrides)
  else:
    experiment = trained.open_run(args.workdir, args.overrides)
  return experiment, make_mesh(experiment.mesh)


def _sample(args: argparse.Namespace) -> None:
  guidance = parse(args.guidance)
  if args.num < 1:
    raise InputError(f'--num is {args.num}, expected at least 1.')
  if args.folder and args.weights:
    raise InputError('--weights is for runs: a folder holds one set.')
  experiment, mesh = _open(args)
  network = model.bind(experiment.model, {})
  path = path_named(experiment.objective.path)
  generate.check(experiment.sample, guidance, network, mesh, path)
  labels = generate.plan_labels(
    args.labels, args.num, experiment.model.num_classes, args.seed
  )
  if args.workdir:
    checkpoint.newest_step(args.workdir)
  decoder = trained.read_autoencoder(args.autoencoder, experiment, mesh)
  out = writer.results_folder(
    args.out or f'{args.folder or args.workdir}/samples'
  )
  if args.folder:
    denoiser, protocol = trained.restore_folder(args.folder, experiment, mesh)
  else:
    denoiser, protocol = trained.restore_run(
      args.workdir, experiment, mesh, args.weights or 'ema'
    )
  with progress_bar(total=args.num, unit=' images', desc='sample') as bar:
    images = generate.generate(
      denoiser,
      guidance,
      labels,
      experiment.sample,
      path=path,
      shape=experiment.model.latent_shape,
      mesh=mesh,
      seed=args.seed,
      autoencoder=decoder,
      progress=lambda done: bar.update(done - bar.n),
    )
  nfe = sampler.nfe(
    guidance,
    experiment.sample.make_solver(path),
    experiment.sample.grid(),
    experiment.model.depth,
    args.seed,
    experiment.sample.scales_at,
  )
  writer.write_npz(out / 'samples.npz', images, labels)
  columns = min(args.num, 10)
  scale = max(1, 40 // images.shape[1])
  writer.write_png(
    out / 'samples.png', writer.tile(images[:100], columns, scale=scale)
  )
  writer.write_json(
    out / 'samples.json',
    {
      **protocol,
      'guidance': describe(guidance),
      'nfe_per_image': nfe,
      'autoencoder': args.autoencoder,
      'sampling': dataclasses.asdict(experiment.sample),
      'labels': args.labels,
      'num': args.num,
      'seed': args.seed,
      **workdir.environment(),
    },
  )
  logging.info(
    '%d images (%s, NFE %.4g) in %s.', args.num, describe(guidance), nfe, out
  )


def _compare(args: argparse.Namespace) -> None:
  experiment, mesh = _open(args)
  network = model.bind(experiment.model, {})
  path = path_named(experiment.objective.path)
  for text in experiment.compare.texts():
    generate.check(experiment.sample, parse(text), network, mesh, path)
  data = experiment.data
  splits = []
  for split in (data.train_split, data.test_split):
    source = open_source(data, split)
    check_source(source, experiment.model)
    splits.append(load_all(source))
  checkpoint.newest_step(args.workdir)
  out = writer.results_folder(args.out or args.workdir)
  denoiser, protocol = trained.restore_run(
    args.workdir, experiment, mesh, args.weights or 'ema'
  )
  table = compare_lib.compare(
    denoiser,
    experiment.compare,
    experiment.sample,
    path=path,
    shape=experiment.model.latent_shape,
    mesh=mesh,
    seed=args.seed,
    reference=splits[0],
    held_out=splits[1],
    protocol=protocol,
    folder=out,
  )
  print(f'\n{table}')
  print(
    f'Frechet distances to {len(splits[0][0])} real images of '
    f'{data.name} ± bootstrap standard error, {experiment.compare.num} images '
    'per method; features of a classifier trained on those images (not FID).\n'
    '"gain" is the fall of a distance against the first row, in standard '
    'errors of the difference: not above 2 means no help that shows here, '
    'negative means harm.\n'
    f'Pictures: {out}/samples.png, {out}/guidance.png, '
    f'{args.workdir}/loss.png'
  )


def _convert(args: argparse.Namespace) -> None:
  report = exchange.exchange(
    args.source,
    args.target,
    family=args.family,
    num_heads=args.num_heads,
    taps=args.taps,
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
    'draw images from a trained run, or a folder of weights',
    'python main.py sample --workdir=runs/digits '
    '--guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100\n'
    '         python main.py sample --folder=sit-xl-ig --num=16 '
    '--autoencoder=sd_vae:vae.safetensors',
  )
  sample.add_argument(
    '--guidance',
    default='none',
    help='methods ig, cfg, s2 as NAME:SCALE[:OPTION=N][@LOW-HIGH], comma-'
    'separated; scale 1 is off, t is 0 at the data (%(default)s)',
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
  compare = command_of_run(
    'compare',
    _compare,
    'guidance methods side by side: a table and pictures',
    'python main.py compare --workdir=runs/digits --config.compare.num=1000',
  )
  for sub in (sample, compare):
    sub.add_argument(
      '--weights',
      choices=tuple(checkpoint.WEIGHTS),
      help='of a run, the moving average or the raw parameters (ema)',
    )
    sub.add_argument(
      '--seed', type=int, default=0, help='of all noise (%(default)s)'
    )
    sub.add_argument('--out', help='folder for the results (in the workdir)')
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
  except loop.NonFiniteError as error:
    print(f'main.py: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('main.py: interrupted.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
