"""The flags of every command.

Importing this module imports nothing heavy, so `--help` and errors in flags are
answered at once.
"""

import argparse
from collections.abc import Mapping

from commands import flag_groups
from commands.flag_groups import ALL_KEYS
from commands.sampling_flags import (
  add_compare,
  add_evaluate,
  add_report,
  add_sample,
  add_sweep,
)

CONVERT_EXAMPLES = """\
examples; a published file to a folder, back, and to another file:
  python main.py convert --from=SiT.pt --to=sit --family=ig_sit --taps=8
  python main.py convert --from=hf://org/name/DiT.pt --to=dit --family=dit
  python main.py convert --from=sit --to=sit.safetensors
  python main.py convert --from=DiT.pt --to=dit.safetensors --family=dit
the newest checkpoint of a run, to a folder and to a published file:
  python main.py convert --from=runs/digits --to=digits
  python main.py convert --from=runs/digits --to=digits-raw --weights=raw
  python main.py convert --from=runs/sit --to=sit.safetensors --family=ig_sit
quantized, for sampling (any source but quantized weights):
  python main.py convert --from=runs/digits --to=digits-int8 --quantize=int8
FID's Inception, as published, to a file that needs no torch:
  python main.py convert --from=I.pth --to=I.safetensors --family=inception

.pt, .pth and .ckpt files need torch (requirements-torch.txt), hf:// needs
huggingface_hub (requirements-hub.txt). Nothing is ever overwritten.
"""


def add_commands(
  parser: argparse.ArgumentParser,
) -> Mapping[str, argparse.ArgumentParser]:
  """Adds every command, and returns their parsers by name."""
  commands = parser.add_subparsers(dest='command', metavar='COMMAND')

  def command(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    return commands.add_parser(
      name,
      help=text,
      description=text,
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  for add in (
    _add_prepare, _add_train, _add_distill, add_sample, add_compare, add_sweep,
    add_evaluate, add_report, _add_reference, _add_features, _add_convert,
  ):  # fmt: skip
    add(command)
  return commands.choices


def _add_prepare(command: flag_groups.Command) -> None:
  parser = command(
    'prepare',
    'turn images into records for training; the same command again resumes',
    f'Writes data.dir/data.name/SPLIT. {ALL_KEYS}'
    'Example: python main.py prepare '
    '--images=imagenet/train --config.data.name=imagenet256 \\\n'
    '           --autoencoder=sd_vae:vae.safetensors',
  )
  parser.add_argument(
    '--images',
    type=flag_groups.path,
    help='folder or .zip of CLASS/IMAGE, or tfds:NAME[:SPLIT]; imagenet2012 '
    'from its tars, see docs/data.md',
  )
  parser.add_argument(
    '--autoencoder',
    metavar=flag_groups.AUTOENCODER,
    type=flag_groups.path,
    help='autoencoder that encodes the images: its name and its published '
    'files, or their folder (none: pixels)',
  )
  parser.add_argument(
    '--config', default='configs/base.py', help='config file (%(default)s)'
  )
  parser.add_argument(
    '--split', default='train', help='split to write (%(default)s)'
  )
  parser.add_argument(
    '--verify', action='store_true', help='only read all records again'
  )
  flag_groups.add_processes(parser)


def _add_train(command: flag_groups.Command) -> None:
  parser = command(
    'train',
    'train a network; the same command again resumes',
    f'{ALL_KEYS}Example: python main.py train --workdir=runs/digits '
    '--config.optimizer.lr=1e-3',
  )
  parser.add_argument(
    '--workdir', type=flag_groups.path, help='folder of the run'
  )
  parser.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  flag_groups.add_autoencoder(parser)
  flag_groups.add_stopped_status(parser)
  flag_groups.add_processes(parser)
  flag_groups.add_dry_run(parser, topology=True)


def _add_distill(command: flag_groups.Command) -> None:
  parser = command(
    'distill',
    'train a few-step student of a network; the same command again resumes',
    f'{ALL_KEYS}The first example trains one student, the second '
    'runs a recipe of '
    'several stages (docs/distillation.md).\nExamples:\n'
    '  python main.py distill --config=configs/distill/digits.py:hybrid,4 \\\n'
    '    --teacher=runs/digits --workdir=runs/hybrid4\n'
    '  python main.py distill --config=configs/distill/digits.py:flash,4 \\\n'
    '    --teacher=runs/digits --workdir=runs/flash4',
  )
  for flag, text in (
    ('--config', 'config file in configs/distill/'),
    ('--teacher', 'teacher: a run (its average), or a folder of weights'),
    ('--workdir', 'folder of the student'),
  ):
    needed = flag != '--workdir'  # not for --dry_run
    parser.add_argument(flag, type=flag_groups.path, required=needed, help=text)
  flag_groups.add_autoencoder(parser)
  flag_groups.add_stopped_status(parser)
  flag_groups.add_processes(parser)
  flag_groups.add_dry_run(parser)


def _add_reference(command: flag_groups.Command) -> None:
  parser = command(
    'reference',
    'compute statistics of real images, for evaluate --reference',
    'Example:\n  python main.py reference --images=imagenet/train '
    '--to=imagenet256.npz \\\n'
    '    --config.eval.image_size=256 --extractor=inception:FILE',
  )
  parser.add_argument(
    '--images',
    dest='reference',
    metavar='IMAGES',
    type=flag_groups.path,
    help='an .npz, a folder, a .zip, tfds:NAME:SPLIT (the training split)',
  )
  flag_groups.add_target(parser)
  flag_groups.add_real_images_config(parser)
  flag_groups.add_autoencoder(parser)
  flag_groups.add_extractor(parser)
  flag_groups.add_processes(parser)


def _add_features(command: flag_groups.Command) -> None:
  parser = command(
    'train-features',
    'train a classifier whose features measure distances',
    'Example:\n  python main.py train-features --config=configs/cifar10.py '
    '--to=features/cifar10\nThen: --extractor=classifier:features/cifar10',
  )
  parser.add_argument(
    '--steps', type=int, help='steps of training (by image size)'
  )
  flag_groups.add_target(parser)
  parser.add_argument(
    '--config', default='configs/digits.py', help='config file (%(default)s)'
  )
  flag_groups.add_autoencoder(parser)
  flag_groups.add_processes(parser)


def _add_convert(command: flag_groups.Command) -> None:
  parser = command(
    'convert',
    'convert weights from one kind of file to another',
    CONVERT_EXAMPLES,
  )
  for flag, name, text in (
    ('--from', 'source', 'published file (or hf://org/name/file), folder of '
     'weights, or workdir of a run'),
    ('--to', 'target', 'new published file if it ends with .safetensors, else '
     'new folder'),
  ):  # fmt: skip
    parser.add_argument(
      flag,
      dest=name,
      metavar='PATH',
      type=flag_groups.web_path,
      required=True,
      help=text,
    )
  parser.add_argument(
    '--family', help=f'published format: {", ".join(flag_groups.FAMILIES)}'
  )
  parser.add_argument(
    '--num_heads',
    type=int,
    help='attention heads of a published source of unusual width',
  )
  parser.add_argument(
    '--taps',
    type=flag_groups.blocks,
    help='blocks before the intermediate head of a published source',
  )
  parser.add_argument(
    '--no_null_label',
    action='store_true',
    help='the last label of the published source is a class, not the null '
    'label',
  )
  parser.add_argument(
    '--weights',
    type=flag_groups.weights,
    help='ema or raw, the moving average or the raw parameters (ema, or the '
    'only set there is); for a run also ema:WIDTH',
  )
  parser.add_argument(
    '--quantize',
    metavar='SCHEME',
    help=f'{", ".join(flag_groups.SCHEMES)}: a folder of smaller weights, for '
    'sampling only (none)',
  )
  parser.add_argument(
    '--allow_nonfinite',
    action='store_true',
    help='convert weights with NaN or infinite values too, for study; a folder '
    'of them can be sampled',
  )
