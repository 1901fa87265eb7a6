"""Flags of the command convert."""

import argparse

from commands.flags import shared

DESCRIPTION = 'convert weights from one kind of file to another'
EPILOG = """\
Examples: a published file to a folder, back, and to another file:
  python main.py convert --from=SiT.pt --to=sit --family=ig_sit --taps=8
  python main.py convert --from=hf://org/name/DiT.pt --to=dit --family=dit
  python main.py convert --from=sit --to=sit.safetensors
  python main.py convert --from=DiT.pt --to=dit.safetensors --family=dit
The newest checkpoint of a run, to a folder and to a published file:
  python main.py convert --from=runs/digits --to=digits
  python main.py convert --from=runs/digits --to=digits-raw --weights=raw
  python main.py convert --from=runs/sit --to=sit.safetensors --family=ig_sit
Quantized weights for sampling, from any source not yet quantized:
  python main.py convert --from=runs/digits --to=digits-int8 --quantize=int8
The published Inception network of FID, to a file that needs no torch:
  python main.py convert --from=I.pth --to=I.safetensors --family=inception

.pt, .pth and .ckpt files need torch (requirements-torch.txt), hf:// needs
huggingface_hub (requirements-hub.txt). No file is overwritten.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `convert`."""
  parser.add_argument(
    '--from',
    dest='source',
    metavar='PATH',
    type=shared.web_path,
    required=True,
    help='published file (or hf://org/name/file), folder of weights, or '
    'workdir of a run',
  )
  parser.add_argument(
    '--to',
    dest='target',
    metavar='PATH',
    type=shared.web_path,
    required=True,
    help='path of a new published file, if it ends with .safetensors, or of a '
    'new folder',
  )
  parser.add_argument(
    '--family', help=f'published format: {", ".join(shared.FAMILIES)}'
  )
  parser.add_argument(
    '--num_heads',
    type=int,
    help='attention heads of a published source of unusual width',
  )
  parser.add_argument(
    '--taps',
    type=shared.blocks,
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
    type=shared.weights,
    help='ema (moving average), raw (parameters) or, for a run, ema:WIDTH '
    '(ema, or the only available set)',
  )
  parser.add_argument(
    '--quantize',
    metavar='SCHEME',
    help=f'{", ".join(shared.SCHEMES)}: quantize into a folder, for sampling '
    'only (none)',
  )
  parser.add_argument(
    '--allow_nonfinite',
    action='store_true',
    help='convert weights with NaN or infinite values too; a folder of them '
    'can be sampled',
  )
