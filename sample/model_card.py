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
_TEMPLATE = """---
library_name: jax
tags: [diffusion, diffusion-transformer]
---

# {title}

{summary}

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
    info: Entries of config.json, such as 'source', 'latents' and 'student'.
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
  student = info.get('student') or {}
  entries = {
    'weights': info.get('weights'),
    'training step': info.get('step'),
    'family': info.get('family'),
    'path': info.get('path'),
    'teacher': student.get('teacher'),
    "SHA-256 of the teacher's weights": student.get('teacher_sha256'),
    'distillation': student.get('method'),
    'guidance of the teacher': student.get('guidance'),
  }
  origin = [(name, value) for name, value in entries.items() if value]
  source = str(info.get('source', ''))
  if source.startswith((HUB, WEB)):  # a local path means nothing to others
    origin.insert(0, ('source', source))
  labels = np.unique([0, config.num_classes - 1])
  is_guided = config.null_label and not _is_student(info)
  decodes = _space(latents) != 'pixels'
  return _TEMPLATE.format(
    title=title,
    summary=_summary(info),
    decoder=", autoencoder='NAME:FILE'" if decodes else '',
    decoder_flag=' --autoencoder=NAME:FILE' if decodes else '',
    note=_NOTE if decodes else '',
    labels=', '.join(map(str, labels)),
    guidance='cfg:1.5' if is_guided else 'none',
    network=markdown.table(('property', 'value'), _cells(network)),
    origin=markdown.table(('property', 'value'), _cells(origin)),
    results=results or 'No results are recorded for these weights.',
  )


def _is_student(info: Mapping[str, Any]) -> bool:
  """Returns whether the network is a few-step student.

  Folders of earlier versions lack the entry 'student'. They record a merge, or
  the solver that only students have.
  """
  solver = (info.get('sample') or {}).get('solver')
  return 'student' in info or 'merge' in info or solver == 'renoise'


def _summary(info: Mapping[str, Any]) -> str:
  """Returns what the network is and how it is sampled, in a few sentences."""
  if not _is_student(info):
    return 'A network for class-conditional diffusion, in JAX.'
  student = info.get('student') or {}
  teacher, method = student.get('teacher'), student.get('method')
  origin = f' of {teacher}' if teacher else ''
  origin += f', distilled by {method}' if method else ''
  steps = (info.get('sample') or {}).get('steps')
  count = f'{steps} steps' if steps != 1 else 'one step'
  return (
    f'A few-step student{origin}: a network for class-conditional diffusion, '
    f'in JAX.\nIt samples in {count}, without guidance.'
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
