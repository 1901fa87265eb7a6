"""Writes README.md of a folder of weights, its model card.

A model card describes the network, the origin of its weights, its results and
how to sample, so that others can use an uploaded folder.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core import markdown
from dit.base import NetworkConfig
from dit.weights.files import HUB, WEB

FILE = 'README.md'
_MOST_CLASSES = 20  # longer lists of class names are cut
_NOTE = """
NAME:FILE is the autoencoder of the latents and its file, such as
sd_vae:sd-vae-ft-ema.safetensors."""
_FEW = 8  # most steps of a student, which needs no guidance
_TEMPLATE = """---
library_name: jax
tags: [diffusion, diffusion-transformer]
---

# {title}

A network for class-conditional diffusion, in JAX.

## Sample

```python
from sample import load, tile

pipeline = load('FOLDER'{decoder})
images = pipeline([{labels}], '{guidance}')
sheet = tile(images, columns=2)
```

    python main.py sample --folder=FOLDER --guidance={guidance} \\
      --num=16 --out=samples{decoder_flag}

FOLDER is the path of this folder, or hf://ORG/NAME after an upload.{note}

## Network

{network}
## Origin

{origin}
## Results

{results}
"""


def model_card(
  title: str,
  config: NetworkConfig,
  info: Mapping[str, Any],
  *,
  count: int,
  results: str = '',
) -> str:
  """Returns a model card as Markdown.

  Args:
    title: Name of the network.
    config: Settings of the network.
    info: Entries of config.json, such as 'source' and 'latents'.
    count: Number of parameters.
    results: Measured results with their protocol, as Markdown.
  """
  latents = info.get('latents') or {}
  classes = latents.get('classes') or ()
  size, _, channels = config.latent_shape
  network = [
    ('parameters', f'{count:,}'),
    ('blocks', config.depth),
    ('input', f'{size} x {size} x {channels}, {_space(latents)}'),
    ('classes', _class_names(config.num_classes, classes)),
    ('null label (for CFG)', 'yes' if config.null_label else 'no'),
    ('intermediate heads (for IG)', _taps(config.taps)),
  ]
  origin = [
    (name, info[key])
    for name, key in (
      ('weights', 'weights'), ('training step', 'step'), ('family', 'family'),
      ('path', 'path'),
    )
    if info.get(key) is not None
  ]  # fmt: skip
  source = str(info.get('source', ''))
  if source.startswith((HUB, WEB)):  # a local path means nothing to others
    origin.insert(0, ('source', source))
  labels = np.unique([0, config.num_classes - 1])
  steps = (info.get('sample') or {}).get('steps', 250)
  is_guided = config.null_label and steps > _FEW
  decodes = _space(latents) != 'pixels'
  return _TEMPLATE.format(
    title=title,
    decoder=", autoencoder='NAME:FILE'" if decodes else '',
    decoder_flag=' --autoencoder=NAME:FILE' if decodes else '',
    note=_NOTE if decodes else '',
    labels=', '.join(map(str, labels)),
    guidance='cfg:1.5' if is_guided else 'none',
    network=markdown.table(('property', 'value'), _cells(network)),
    origin=markdown.table(('property', 'value'), _cells(origin)),
    results=results or 'No results are recorded for these weights.',
  )


def _cells(rows: Sequence[tuple[str, Any]]) -> list[list[str]]:
  return [[name, str(value)] for name, value in rows]


def _space(latents: Mapping[str, Any]) -> str:
  """Returns what the network's inputs are."""
  name = (latents.get('autoencoder') or {}).get('name')
  if name == 'pixels':
    return 'pixels'
  return f'latents of {name}' if name else 'latents or pixels'


def _class_names(count: int, names: Sequence[str]) -> str:
  """Returns the number of classes, with their names if known."""
  if not names:
    return str(count)
  shown = ', '.join(name.partition(',')[0] for name in names[:_MOST_CLASSES])
  more = ', ...' if len(names) > _MOST_CLASSES else ''
  return textwrap.shorten(f'{count}: {shown}{more}', 2000)


def _taps(taps: Sequence[int]) -> str:
  """Returns the positions of the intermediate heads."""
  return ', '.join(f'after block {tap}' for tap in taps) or 'none'
