"""The command `report`: a run as one HTML page.

Most of it is what the run and the other commands left in the workdir; a sheet
of samples by class and film strips (`sample.trajectory`) are drawn anew.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from matplotlib.figure import Figure

from commands.advice import Advice
from commands.flags.compare import METHODS, SWEEP_METHODS
from commands.report import page
from commands.report.samples import Artist
from commands.sample_job import SampleRequest, request_of
from core.errors import InputError
from core.files import read_json, write_bytes
from core.nested import flatten
from core.processes import writing
from dit import backbone
from dit.weights.checkpoint import steps_of
from evaluate.sweep import SweepGrid, read_points
from guidance import parse
from sample.labels import class_name
from train import plots
from train.config_file import load_config
from train.experiment import Experiment
from train.metrics_log import read_metrics
from train.previews import COLUMNS
from train.workdir import TEACHER
from train.workdir import load_config as load_run_config

_GRIDS = 12  # of previews, evenly spaced over the run
_NOTHING = 'Nothing yet.'
# Guidance that `compare` samples with unless it is told otherwise.
COMPARED = (*METHODS, ','.join(f'{name}:1' for name in SWEEP_METHODS))


def run(args: argparse.Namespace) -> None:
  """Runs `report`."""
  print(report(request_of(args), args.guidance, draw=not args.no_draw))


def report(
  request: SampleRequest,
  guidance: Sequence[str],
  *,
  draw: bool = True,
) -> str:
  """Writes report.html.

  Args:
    request: the run; where to.
    guidance: methods to draw with, as text, the first for the sheet; empty:
      those of the previews and of `compare` that the network serves.
    draw: whether to draw at all, for which the weights are read.

  Returns:
    Where it is.

  Raises:
    InputError: if there is no run, or it cannot draw with `guidance`.
  """
  source = request.source
  told = (guidance, source.weights, source.step, request.guide)
  asked = any(value not in (None, []) for value in told)
  if asked and not draw:
    raise InputError(
      '--guidance, --weights, --step and --guide say what to draw: leave them '
      'out, or --no_draw.'
    )
  experiment = source.open(request.overrides)
  place = epath.Path(source.place).expanduser()
  for text in guidance:
    parse(text)
  with writing(
    request.out or place, 'report', 'report', writes=('report.html',)
  ) as out:
    path = out / 'report.html'
    text = _page(request, experiment, guidance, asked=asked, draw=draw)
    write_bytes(path, text.encode())
  return f'{path} ({len(text) / 2**20:.1f} MiB; it needs no other file).'


def _page(
  request: SampleRequest,
  experiment: Experiment,
  guidance: Sequence[str],
  *,
  asked: bool,
  draw: bool,
) -> str:
  """Returns the page as HTML.

  Args:
    request: Run to report on.
    experiment: Settings of the run.
    guidance: Methods to sample with.
    asked: Whether the user said what to sample, so that failure is an error.
    draw: Whether to sample at all.
  """
  place = epath.Path(request.source.place).expanduser()
  rows = read_metrics(place)
  advice = Advice(request)
  # Existing results are read first, since drawing takes time.
  made = [
    (name, title, _made(title, make, *args))
    for name, title, make, *args in (
      ('run', 'Run', _run, experiment, place, rows),
      ('losses', 'Losses', _losses, rows),
      ('throughput', 'Throughput', _throughput, rows),
      ('scores', 'Scores on the way', _scores, experiment, rows),
      ('previews', 'Samples over time', _previews, request, experiment, place),
      ('guidance', 'Guidance', _guidance, advice, place),
      ('sweeps', 'Sweeps', _sweeps, advice, experiment, place),
      ('evaluations', 'Evaluations', _evaluations, advice, place),
    )
  ]
  samples = films = page.note('Not drawn: --no_draw.')
  if draw:
    try:
      artist = Artist(request, guidance)
    except InputError as error:
      if asked or request.autoencoder:
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
  return page.page(str(place), made)


def _made(what: Any, make: Callable[..., str], *args: Any) -> str:
  """`make(*args)`; where a file is damaged, what is wrong with `what`."""
  try:
    return make(*args)
  except InputError as error:  # it names the file
    logging.warning('%s', error)
    return page.note(f'Left out: {error}')
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    logging.warning('%s is damaged (%s).', what, reason)
    return page.note(f'Left out: {what} is damaged ({reason}).')


def _picture(path: epath.Path, caption: str) -> str:
  """A picture from a file; nothing where there is none."""
  if not path.exists():
    return ''
  return _made(path, lambda: page.figure(path.read_bytes(), caption))


def _losses(rows: plots.Rows) -> str:
  return _plots(
    {
      'Every term of the loss.': plots.losses(rows),
      'Terms of distillation.': plots.panels_of(rows, 'distill/'),
      'Norm of the gradient, and learning rate.': plots.optimisation(rows),
    }
  )


def _throughput(rows: plots.Rows) -> str:
  caption = 'Images per second, and the share of time without a batch.'
  return _plots({caption: plots.throughput(rows)})


def _scores(experiment: Experiment, rows: plots.Rows) -> str:
  config = experiment.eval
  caption = f'{config.num} samples, guidance {config.guidance}.'
  off = 'Not measured: eval.every_images is 0.'
  otherwise = _NOTHING if config.every_images else off
  return _plots({caption: plots.panels_of(rows, 'eval/')}, otherwise)


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
  config, path = experiment.model, place / 'run.json'
  leaves = jax.tree.leaves(backbone.shapes(config))
  size = sum(leaf.size for leaf in leaves)
  values = {
    'network': f'{read_json(place / "config.json")["model"]["name"]}, '
    f'{size / 1e6:.2f} M parameters',
    'latents': f'{" x ".join(map(str, config.latent_shape))}, '
    f'{config.num_classes} classes of {experiment.data.name}',
    'trained': f'{last.get("step", 0)} of {experiment.train.steps} steps, '
    f'{last.get("images", 0):,} of {experiment.train.images:,} images',
    'checkpoints': ', '.join(map(str, steps_of(place))) or 'none',
    'loss': f'{losses[-1]:.4g}' if losses else '',
  }
  origin = _made(path, _origin, path) if path.exists() else ''
  return page.facts({k: v for k, v in values.items() if v}) + origin


def _origin(path: epath.Path) -> str:
  """Where and with what it was run."""
  found = read_json(path)
  versions = found['packages'].items()
  values = {
    'command': ' '.join(found['command']),
    'devices': f'{found["devices"]} x {found["device"]}, '
    f'{found["processes"]} process(es)',
    'versions': ', '.join(f'{name} {version}' for name, version in versions),
    'commit': found['commit'] or '',
  }
  return page.facts({key: value for key, value in values.items() if value})


def _previews(
  request: SampleRequest, experiment: Experiment, place: epath.Path
) -> str:
  """Returns the preview grids, with the names of their columns."""
  paths = sorted((place / 'previews').glob('*.png'))
  paths = [path for path in paths if path.stem.isdecimal()]
  if not paths:
    return page.note(_NOTHING)
  chosen = np.linspace(0, len(paths) - 1, _GRIDS).round().astype(int)
  batch = experiment.train.batch_size
  figures = [
    _picture(path, f'step {int(path.stem)}, {int(path.stem) * batch:,} images')
    for path in (paths[k] for k in np.unique(chosen))
  ]
  names = request.source.latents().classes
  columns = range(min(experiment.model.num_classes, COLUMNS))
  caption = (
    f'Guidance {experiment.log.preview_guidance}; columns: '
    f'{", ".join(class_name(k, names) for k in columns)}.'
  )
  return page.note(caption) + page.strip(figures)


def _guidance(advice: Advice, place: epath.Path) -> str:
  """What `compare` left."""
  results, table = place / 'compare.json', place / 'table.md'
  if not results.exists() or not table.exists():
    return page.note(_NOTHING + advice('compare', guidance=COMPARED))
  return ''.join(
    [
      _made(table, lambda: page.table(*_cells(table))),
      _made(results, _compared, results),
      _picture(
        place / 'samples.png',
        'Samples, the same labels and noise in every row of blocks.',
      ),
      _picture(
        place / 'guidance.png', 'Distance against scale, each method alone.'
      ),
    ]
  )


def _compared(path: epath.Path) -> str:
  found = read_json(path)
  protocol = found['protocol']
  return page.note(
    f'{protocol["compare"]["num"]} images per method against '
    f'{protocol["reference"]}; ± bootstrap standard error; step '
    f'{protocol.get("step")}; {found["device"]}.'
  )


def _cells(path: epath.Path) -> tuple[list[str], list[list[str]]]:
  """Names and rows of a table in Markdown."""
  names, _, *rows = (
    [cell.strip() for cell in line.strip().strip('|').split('|')]
    for line in path.read_text().splitlines()
  )
  return names, rows


def _sweeps(advice: Advice, experiment: Experiment, place: epath.Path) -> str:
  """What `sweep` left, in the workdir or a folder within."""
  found = [
    path
    for path in _found(place, 'sweep.json')
    if (path.parent / 'sweep.png').exists()  # at its end
  ]
  if found:
    return ''.join(_made(path.parent, _sweep, path) for path in found)
  methods = ['cfg:1.0..2.0:6'] if experiment.model.null_label else []
  methods = ['ig:1.0..2.0:6'] * bool(experiment.model.taps) + methods
  if (place / TEACHER).exists() or not methods:
    return page.note(_NOTHING)
  text = ','.join(methods)
  words = (f'--guidance={text}',)
  return page.note(
    _NOTHING + advice('sweep', *words, guidance=SweepGrid.of(text).texts())
  )


def _sweep(path: epath.Path) -> str:
  """One of them, by its protocol."""
  folder, found = path.parent, read_json(path)
  names, points = read_points(folder / 'sweep.csv')
  cells = [[f'{value:.6g}' for value in point] for point in points]
  guidance, sampling = found['guidance'], found['sampling']
  for k in range(guidance.count('*')):
    scales = sorted({point[k] for point in points})
    span = f'{scales[0]:g}..{scales[-1]:g}:{len(scales)}'
    guidance = guidance.replace('*', span, 1)
  caption = (
    f'{found["num"]} images per point; {sampling["solver"]}, '
    f'{sampling["steps"]} steps, seed {found["seed"]}; in {folder.name}/.'
  )
  return (
    page.heading(guidance)
    + _picture(folder / 'sweep.png', caption)
    + page.folded('All points', page.table(names, cells))
  )


def _evaluations(advice: Advice, place: epath.Path) -> str:
  """What `evaluate` left, the lines for a paper under one head."""
  paths = list(_found(place / 'evaluation', 'evaluation*.md'))
  if not paths:
    return page.note(_NOTHING + advice('evaluate', '--num=500'))
  rows: list[dict[str, str]] = []

  def read(path: epath.Path) -> str:
    names, values = _cells(path)
    rows.append(dict(zip(names, *values, strict=True)))
    return ''

  notes = ''.join(_made(path, read, path) for path in paths)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  return notes + page.table(
    columns, [[row.get(c, '') for c in columns] for row in rows]
  )


def _config(place: epath.Path) -> str:
  """Every key, those that differ from configs/base.py in bold."""
  found = load_run_config(place)
  usual = flatten(load_config('configs/distill/base.py').to_dict())
  parts = [page.note('Bold: not as in configs/base.py.')]
  for section, values in found.items():
    flat = flatten({section: values})
    changed = [key for key in flat if flat[key] != usual.get(key, flat[key])]
    parts.append(
      page.folded(f'{section} ({len(changed)} set)', page.facts(flat, changed))
    )
  return ''.join(parts)


def _found(place: epath.Path, pattern: str) -> Iterator[epath.Path]:
  """Files in a folder, and in the folders within, in order."""
  for depth in ('', '*/'):
    yield from sorted(place.glob(depth + pattern))
