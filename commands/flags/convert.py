"""Flags of the command `convert`."""

import argparse

from commands.flags import shared

SUMMARY = 'convert weights from one kind of file to another'
USAGE = '--from=PATH --to=PATH'
EXAMPLES = """
A published file to a folder, back, and to another file:
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
"""
NOTES = """\
.pt, .pth and .ckpt files need torch (requirements-torch.txt), hf:// needs
huggingface_hub (requirements-hub.txt). No file is overwritten."""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `convert`."""
  subject, published, method = shared.groups(
    parser, 'what to convert', 'a published source', 'how to convert'
  )
  subject.add(
    '--from=PATH',
    'published file (or hf://org/name/file), folder of weights, or '
    'workdir of a run',
    dest='source',
    type=shared.web_path,
    required=True,
  )
  subject.add(
    '--to=PATH',
    'new path to write: a published file if the path ends with .safetensors, '
    'otherwise a folder',
    dest='target',
    type=shared.web_path,
    required=True,
  )
  subject.add(
    '--family=NAME',
    f'published format: {", ".join(shared.FAMILIES)} (required for a '
    'published source, and for a published target if the source does not '
    'record the format)',
  )
  published.add(
    '--num_heads=N',
    'number of attention heads, required for an unusual width (default: the '
    'usual number for the width)',
    type=int,
  )
  published.add(
    '--taps=BLOCKS',
    'number of blocks before the intermediate head, such as 8 (required '
    'for the ig_ families)',
    type=shared.blocks,
  )
  published.add(
    '--no_null_label', 'treat the last label as a class, not as the null label'
  )
  method.add(
    '--weights=WEIGHTS',
    'weights to convert: ema (moving average), raw (parameters) or, for a run, '
    'ema:WIDTH (default: ema, or the only available set)',
    type=shared.weights,
  )
  method.add(
    '--quantize=SCHEME',
    f'quantization of a target folder: {", ".join(shared.SCHEMES)}; such a '
    'folder is for sampling only (default: none)',
  )
  method.add(
    '--allow_nonfinite',
    'convert even weights that contain NaN or infinite values '
    '(default: stop with an error)',
  )
