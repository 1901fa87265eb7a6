"""The flags of the commands that sample images or measure them."""

from commands import flag_groups
from commands.flag_groups import FREE_KEYS


def add_sample(command: flag_groups.Command) -> None:
  """Adds the command sample."""
  parser = command(
    'sample',
    'draw images from a run or a folder of weights; the same command '
    'again resumes',
    f'{FREE_KEYS}Examples:\n'
    '  python main.py sample --workdir=runs/digits '
    '--guidance=ig:1.5,cfg:1.2@0-0.7 --config.sample.steps=100\n'
    '  python main.py sample --folder=sit-xl-ig --num=16 '
    '--preset=sit_xl_ig_cfg --autoencoder=sd_vae:vae.safetensors',
  )
  where = parser.add_mutually_exclusive_group(required=True)
  for flag, text in (
    ('--workdir', 'folder of the run'),
    ('--folder', 'folder of weights, made by convert'),
    ('--config', 'config file, for --dry_run only'),
  ):
    where.add_argument(
      flag,
      type=flag_groups.web_path if flag == '--folder' else flag_groups.path,
      help=text,
    )
  flag_groups.add_drawing(parser)
  parser.add_argument(
    '--num', type=int, help='number of images (100; with --preset: 50,000)'
  )
  parser.add_argument(
    '--format',
    choices=flag_groups.FORMATS,
    default='npz',
    help='one samples.npz for the ADM evaluator, or a folder of PNG '
    '(%(default)s)',
  )
  flag_groups.add_overwrite(parser)
  flag_groups.add_source(parser)
  flag_groups.add_processes(parser)
  flag_groups.add_dry_run(parser, topology=True)


def add_compare(command: flag_groups.Command) -> None:
  """Adds the command compare."""
  parser = command(
    'compare',
    'compare guidance methods side by side: a table and pictures',
    f'{FREE_KEYS}Example: python main.py compare --workdir=runs/digits '
    '--config.compare.num=1000',
  )
  flag_groups.add_workdir(parser)
  flag_groups.add_source(parser)


def add_sweep(command: flag_groups.Command) -> None:
  """Adds the command sweep."""
  parser = command(
    'sweep',
    'measure a metric over guidance scales: a table and a picture',
    f'{FREE_KEYS}Example: python main.py sweep --workdir=runs/digits '
    '--guidance=ig:1.0..2.0:6,cfg:1.0..2.0:6 --metric=fd',
  )
  flag_groups.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    required=True,
    help='guidance as for sample, with one or two scales LOW..HIGH:COUNT',
  )
  parser.add_argument(
    '--metric',
    type=flag_groups.metric,
    default='fd',
    help='metric, as for evaluate --metrics (%(default)s)',
  )
  parser.add_argument(
    '--num', type=int, default=500, help='images per point (%(default)s)'
  )
  flag_groups.add_extractor(parser)
  flag_groups.add_reference_flag(parser)
  flag_groups.add_overwrite(parser)
  flag_groups.add_source(parser)


def add_evaluate(command: flag_groups.Command) -> None:
  """Adds the command evaluate."""
  parser = command(
    'evaluate',
    'score images against real ones: FID, sFID, IS, precision, recall',
    'Keys of the section eval of configs/base.py can be set: '
    '--config.eval.KEY=VALUE.\nExamples:\n'
    '  python main.py evaluate --workdir=runs/digits --guidance=ig:1.5 '
    '--num=500\n'
    '  python main.py evaluate --samples=samples.npz '
    '--preset=sit_xl_ig_cfg \\\n'
    '    --reference=VIRTUAL_imagenet256_labeled.npz \\\n'
    '    --extractor=inception:inception.safetensors',
  )
  what = parser.add_mutually_exclusive_group(required=True)
  for flag, text in (
    ('--samples', 'images: an .npz, a folder, a .zip, tfds:NAME:SPLIT'),
    ('--workdir', 'run to sample them from; they are not written'),
    ('--folder', 'folder of weights to sample them from'),
  ):
    what.add_argument(
      flag,
      type=flag_groups.web_path if flag == '--folder' else flag_groups.path,
      help=text,
    )
  flag_groups.add_real_images_config(parser)
  flag_groups.add_extractor(parser)
  flag_groups.add_reference_flag(parser)
  parser.add_argument(
    '--metrics',
    type=flag_groups.metrics,
    help='some of fid, sfid, is, kid, precision, recall, fd, accuracy, fd_inf, '
    'separated by commas (all that can be computed but fd_inf)',
  )
  parser.add_argument(
    '--repeats',
    type=int,
    help='number of disjoint sets, for a standard error (1)',
  )
  parser.add_argument(
    '--bootstrap', type=int, help='number of resamples for a standard error (0)'
  )
  flag_groups.add_drawing(parser)
  parser.add_argument(
    '--num',
    type=int,
    help='number of images of each set (50,000, or all samples)',
  )
  flag_groups.add_source(parser)
  flag_groups.add_processes(parser)


def add_report(command: flag_groups.Command) -> None:
  """Adds the command report."""
  parser = command(
    'report',
    'show a run as an HTML page: config, curves, samples, film strips',
    f'{FREE_KEYS}Example: python main.py report --workdir=runs/digits '
    '--guidance=ig:1.5 --guidance=s2:1.5',
  )
  flag_groups.add_workdir(parser)
  parser.add_argument(
    '--guidance',
    action='append',
    default=[],
    help='guidance to sample with, as for sample; repeat it for more methods '
    '(those of log.preview_guidance and compare.methods)',
  )
  parser.add_argument(
    '--no_draw',
    action='store_true',
    help='use only what is in the workdir: read no weights, and leave out the '
    'samples of an earlier page',
  )
  flag_groups.add_source(parser)
