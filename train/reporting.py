"""The command `report`: a run as one HTML page.

Most of it is what the run and the other commands left in the workdir; a sheet
of samples by class and film strips (`sample.film`) are drawn anew.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from matplotlib.figure import Figure

from dit import model
from dit.checkpoint import steps_of
from dit.types import InputError
from guidance import parse
from sample import writer
from train import curves, page
from train.artist import Artist
from train.drawing import Request
from train.experiment import Experiment
from train.log import read_metrics
from train.settings import load_config

_GRIDS = 12  # of previews, evenly spaced over the run
_NOTHING = 'Nothing yet.'
Section = tuple[str, str, str]


def report(
  request: Request,
  guidance: Sequence[str],
  *,
  autoencoder: str | None = None,
  draw: bool = True,
) -> str:
  """Writes report.html.

  Args:
    request: the run; where to.
    guidance: methods to draw with, as text, the first for the sheet; empty:
      those of the previews and of the section compare that the network serves.
    autoencoder: as `decoder.read_autoencoder` reads it; None: that of the
      previews, if any.
    draw: whether to draw at all, for which the weights are read.

  Returns:
    Where it is.

  Raises:
    InputError: if there is no run, or it cannot draw with `guidance`.
  """
  experiment = request.source.open(request.overrides)
  place = epath.Path(request.source.place).expanduser()
  for text in guidance:
    parse(text)
  out = writer.results_folder(request.out or place)
  rows = read_metrics(place)
  sections: list[tuple[str, str, Callable[[], str]]] = [
    ('run', 'Run', lambda: _run(experiment, place, rows)),
    ('losses', 'Losses', lambda: _losses(rows)),
    ('throughput', 'Throughput', lambda: _throughput(rows)),
    ('scores', 'Scores on the way', lambda: _scores(experiment, rows)),
    ('previews', 'Samples over time', lambda: _previews(experiment, place)),
    ('guidance', 'Guidance', lambda: _guidance(place)),
    ('sweeps', 'Sweeps', lambda: _sweeps(experiment, place)),
    ('evaluations', 'Evaluations', lambda: _evaluations(place)),
  ]
  # What is there is read first: drawing takes time.
  made = [(name, title, _made(title, make)) for name, title, make in sections]
  samples = films = page.note('Not drawn: --no_draw.')
  if draw:
    try:
      artist = Artist(request, guidance, autoencoder)
    except InputError as error:
      source = request.source
      told = (guidance, autoencoder, source.weights, source.step, request.guide)
      if any(value not in (None, []) for value in told):
        raise
      logging.warning('Nothing is drawn: %s', error)
      samples = films = page.note(f'Not drawn: {error}')
    else:
      samples, films = artist.sheet(), artist.films()
  made += [
    ('samples', 'Samples by class', samples),
    ('trajectories', 'What guidance changes', films),
    ('config', 'Config', _config(place)),
  ]
  path = out / 'report.html'
  text = page.page(str(place), made)
  writer.write_bytes(path, text.encode())
  return f'{path} ({len(text) / 2**20:.1f} MiB; it needs no other file).'


def _made(title: str, make: Callable[[], str]) -> str:
  """A section; of files that are damaged, what is wrong with them."""
  try:
    return make()
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    logging.warning('%s: a file is damaged (%s).', title, reason)
    return page.note(f'Left out: a file is damaged ({reason}).')


def _losses(rows: curves.Rows) -> str:
  return _plots(
    {
      'Every term of the loss.': curves.losses(rows),
      'Terms of distillation.': curves.panels_of(rows, 'distill/'),
      'Norm of the gradient, and learning rate.': curves.optimisation(rows),
    }
  )


def _throughput(rows: curves.Rows) -> str:
  caption = 'Images per second, and the share of time without a batch.'
  return _plots({caption: curves.throughput(rows)})


def _scores(experiment: Experiment, rows: curves.Rows) -> str:
  config = experiment.eval
  caption = f'{config.num} samples, guidance {config.guidance}.'
  off = 'Not measured: eval.every_images is 0.'
  otherwise = _NOTHING if config.every_images else off
  return _plots({caption: curves.panels_of(rows, 'eval/')}, otherwise)


def _plots(
  figures: Mapping[str, Figure | None], otherwise: str = _NOTHING
) -> str:
  """Plots by their captions."""
  found = [page.figure(f, caption) for caption, f in figures.items() if f]
  return ''.join(found) or page.note(otherwise)


def _run(experiment: Experiment, place: epath.Path, rows: Any) -> str:
  """What it is and how far it has come."""
  last = rows[-1] if rows else {}
  losses = [row['loss'] for row in rows if 'loss' in row]
  config, found = experiment.model, _json(place / 'run.json') or {}
  leaves = jax.tree.leaves(model.shapes(config))
  size = sum(leaf.size for leaf in leaves)
  values = {
    'network': f'{_json(place / "config.json")["model"]["name"]}, '
    f'{size / 1e6:.2f} M parameters',
    'latents': f'{" x ".join(map(str, config.latent_shape))}, '
    f'{config.num_classes} classes of {experiment.data.name}',
    'trained': f'{last.get("step", 0)} of {experiment.train.steps} steps, '
    f'{last.get("images", 0):,} of {experiment.train.images:,} images',
    'checkpoints': ', '.join(map(str, steps_of(place))) or 'none',
    'loss': f'{losses[-1]:.4g}' if losses else '',
  }
  if found:
    versions = found['packages'].items()
    values |= {
      'command': ' '.join(found['command']),
      'devices': f'{found["devices"]} x {found["device"]}, '
      f'{found["processes"]} process(es)',
      'versions': ', '.join(f'{name} {version}' for name, version in versions),
      'commit': found['commit'] or '',
    }
  return page.facts({key: value for key, value in values.items() if value})


def _previews(experiment: Experiment, place: epath.Path) -> str:
  paths = sorted((place / 'previews').glob('*.png'))
  if not paths:
    return page.note(_NOTHING)
  chosen = np.linspace(0, len(paths) - 1, _GRIDS).round().astype(int)
  batch = experiment.train.batch_size
  figures = [
    page.figure(
      path.read_bytes(),
      f'step {int(path.stem)}, {int(path.stem) * batch:,} images',
    )
    for path in (paths[k] for k in np.unique(chosen))
  ]
  caption = f'Guidance {experiment.log.preview_guidance}; classes in columns.'
  return page.note(caption) + page.strip(figures)


def _guidance(place: epath.Path) -> str:
  """What `compare` left."""
  found = _json(place / 'compare.json')
  if not found or not (place / 'table.md').exists():
    return page.note(f'Nothing yet: python main.py compare --workdir={place}')
  head, _, *lines = (place / 'table.md').read_text().splitlines()
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in (head, *lines)
  ]
  protocol = found['protocol']
  parts = [
    page.table(cells[0], cells[1:]),
    page.note(
      f'{protocol["compare"]["num"]} images per method against '
      f'{protocol["reference"]}; ± bootstrap standard error; step '
      f'{protocol.get("step")}; {found["device"]}.'
    ),
  ]
  for name in ('samples', 'guidance'):
    if (place / f'{name}.png').exists():
      caption = {
        'samples': 'Samples, the same labels and noise in every row of blocks.',
        'guidance': 'Distance against scale, each method alone.',
      }
      data = (place / f'{name}.png').read_bytes()
      parts.append(page.figure(data, caption[name]))
  return ''.join(parts)


def _sweeps(experiment: Experiment, place: epath.Path) -> str:
  """What `sweep` left, in the workdir or a folder within."""
  parts = []
  for path in _found(place, 'sweep.json'):
    folder, found = path.parent, _json(path)
    if not found or not (folder / 'sweep.png').exists():
      continue  # not at its end
    names, *points = csv.reader(io.StringIO((folder / 'sweep.csv').read_text()))
    guidance = found['guidance']
    for k in range(guidance.count('*')):
      scales = sorted({float(point[k]) for point in points})
      span = f'{scales[0]:g}..{scales[-1]:g}:{len(scales)}'
      guidance = guidance.replace('*', span, 1)
    sampling = found['sampling']
    caption = (
      f'{found["num"]} images per point; {sampling["solver"]}, '
      f'{sampling["steps"]} steps, seed {found["seed"]}; in {folder.name}/.'
    )
    parts += [
      page.heading(guidance),
      page.figure((folder / 'sweep.png').read_bytes(), caption),
      page.folded('All points', page.table(names, points)),
    ]
  if parts:
    return ''.join(parts)
  methods = ['cfg:1.0..2.0:6'] if experiment.model.null_label else []
  methods = ['ig:1.0..2.0:6'] * bool(experiment.model.taps) + methods
  if experiment.distill.method or not methods:
    return page.note(_NOTHING)
  return page.note(
    f'Nothing yet: python main.py sweep --workdir={place} '
    f'--guidance={",".join(methods)}'
  )


def _evaluations(place: epath.Path) -> str:
  """What `evaluate` left, the lines for a paper under one head."""
  rows = []
  for path in _found(place / 'evaluation', 'evaluation*.md'):
    names, _, values = (
      [cell.strip() for cell in line.strip().strip('|').split('|')]
      for line in path.read_text().splitlines()
    )
    rows.append(dict(zip(names, values, strict=True)))
  if not rows:
    return page.note(
      f'Nothing yet: python main.py evaluate --workdir={place} --num=500'
    )
  columns = list(dict.fromkeys(name for row in rows for name in row))
  return page.table(
    columns, [[row.get(c, '') for c in columns] for row in rows]
  )


def _config(place: epath.Path) -> str:
  """Every key, those that differ from configs/base.py in bold."""
  found = _json(place / 'config.json')
  usual = writer.flatten(load_config('configs/base.py').to_dict())
  parts = [page.note('Bold: not as in configs/base.py.')]
  for section, values in found.items():
    flat = writer.flatten({section: values})
    changed = [key for key in flat if flat[key] != usual.get(key, flat[key])]
    parts.append(
      page.folded(f'{section} ({len(changed)} set)', page.facts(flat, changed))
    )
  return ''.join(parts)


def _found(place: epath.Path, pattern: str) -> Iterator[epath.Path]:
  """Files in a folder, and in the folders within, in order."""
  for depth in ('', '*/'):
    yield from sorted(place.glob(depth + pattern))


def _json(path: epath.Path) -> Any:
  """What a file holds; None where it is missing or damaged."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None
