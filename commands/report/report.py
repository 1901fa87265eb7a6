"""Writes the report from files in the workdir, and from new samples."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jinja2
import numpy as np
from absl import logging
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from commands.advice import Advice
from commands.report.page import macros
from commands.report.samples import SMOOTH, Artist, strip
from commands.sample_job import SampleRequest, request_of
from core.errors import InputError
from core.files import read_json, write_bytes
from core.nested import flatten
from core.processes import writing
from dit import backbone
from dit.weights.checkpoint_names import saved_steps
from evaluate.comparison_picture import (
  AMPLIFIED,
  changes,
  draw_distances,
  read_strips,
)
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

_GRIDS = 12  # number of preview grids shown, evenly spaced over the run


def run(args: argparse.Namespace) -> None:
  """Runs `report`, which writes report.html."""
  request, guidance = request_of(args), args.guidance or []
  draws = not args.no_draw
  source = request.source
  choices = (guidance, source.weights, source.step, request.guide)
  is_choice = any(value not in (None, []) for value in choices)
  if is_choice and not draws:
    raise InputError(
      '--guidance, --weights, --step and --guide select samples: leave them '
      'out, or --no_draw.'
    )
  workdir = _Run(request)
  for text in guidance:
    parse(text)
  with writing(
    request.out or workdir.place, 'report', 'report', writes=('report.html',)
  ) as out:
    path, html = out / 'report.html', macros()
    sections = workdir.sections()  # sampling is slow, so it comes later
    samples = films = html.nothing(text='Not drawn: --no_draw.')
    if draws:
      try:
        artist = Artist(request, guidance)
      except InputError as error:
        if is_choice or request.autoencoder:
          raise
        logging.warning('No samples are drawn: %s', error)
        samples = films = html.nothing(text=f'Not drawn: {error}')
      else:
        samples, films = artist.sheet(), artist.films()
    sections[-1:-1] = [
      ('samples', 'Samples by class', samples),
      ('trajectories', 'What guidance changes', films),
    ]
    text = html.page(str(workdir.place), sections).lstrip()
    write_bytes(path, text.encode())
  print(f'{path} ({len(text) / 2**20:.1f} MiB; it needs no other file).')


class _Run:
  """The files of a run; `sections` calls one method per section of the page."""

  def __init__(self, request: SampleRequest) -> None:
    self._request = request
    self._experiment: Experiment = request.source.open(request.overrides)
    self.place = epath.Path(request.source.place).expanduser()
    self._rows = read_metrics(self.place)
    self._advice = Advice(request)
    self._html = macros()

  def sections(self) -> list[tuple[str, str, Markup]]:
    """Returns the name, heading and content of each section."""
    return [
      (method.__name__, heading, self._undamaged(heading, method))
      for heading, method in (
        ('Run', self.run),
        ('Losses', self.losses),
        ('Throughput', self.throughput),
        ('Scores during training', self.scores),
        ('Samples over time', self.previews),
        ('Guidance', self.guidance),
        ('Sweeps', self.sweeps),
        ('Evaluations', self.evaluations),
        ('Config', self.config),
      )
    ]

  def run(self) -> Markup:
    leaves = jax.tree.leaves(backbone.shapes(self._experiment.model))
    return self._html.run(
      self._experiment,
      read_json(self.place / 'config.json')['model']['name'],
      sum(leaf.size for leaf in leaves),
      saved_steps(self.place),
      self._rows,
    ) + self._file(
      self.place / 'run.json', lambda path: self._html.origin(read_json(path))
    )

  def losses(self) -> Markup:
    rows = self._rows
    return self._plots(
      ('Every term of the loss.', plots.losses(rows)),
      ('Terms of distillation.', plots.panels_of(rows, 'distill/')),
      ('Norm of the gradient, and learning rate.', plots.optimization(rows)),
    )

  def throughput(self) -> Markup:
    caption = 'Images per second, and the fraction of time without a batch.'
    return self._plots((caption, plots.throughput(self._rows)))

  def scores(self) -> Markup:
    config, figures = (
      self._experiment.eval,
      plots.panels_of(self._rows, 'eval/'),
    )
    if not figures and not config.every_images:
      return self._html.nothing(text='Not measured: eval.every_images is 0.')
    caption = f'{config.num} samples, guidance {config.guidance}.'
    return self._plots((caption, figures))

  def previews(self) -> Markup:
    experiment = self._experiment
    paths = sorted((self.place / 'previews').glob('*.png'))
    paths = [path for path in paths if path.stem.isdecimal()]
    if not paths:
      return self._html.nothing()
    grids = []
    for k in np.unique(np.linspace(0, len(paths) - 1, _GRIDS).round()):
      step = int(paths[int(k)].stem)
      images = step * experiment.train.batch_size
      grids.append(
        self._picture(
          paths[int(k)], f'step {step}, {images:,} images', kind='photo'
        )
      )
    names = self._request.source.latents().classes
    columns = range(min(experiment.model.num_classes, COLUMNS))
    return self._html.note(
      f'Guidance {experiment.log.preview_guidance}; columns: '
      f'{", ".join(class_name(k, names) for k in columns)}.'
    ) + self._html.grid(grids)

  def guidance(self) -> Markup:
    results, table = self.place / 'compare.json', self.place / 'table.md'
    if not results.exists() or not table.exists():
      # A student needs no guidance.
      is_student = (self.place / TEACHER).exists()
      return self._html.nothing('' if is_student else self._advice('compare'))
    return Markup('').join(
      [
        self._file(table, lambda path: self._html.table(*_cells(path))),
        self._file(results, lambda path: self._compared(read_json(path))),
        self._compared_images(),
      ]
    )

  def _compared(self, results: Mapping[str, Any]) -> Markup:
    """Shows the protocol and the chart of distances."""
    return self._html.compared(results) + self._html.figure(
      draw_distances(results['rows']), 'Frechet distance in features.'
    )

  def _compared_images(self) -> Markup:
    """Shows images of every method, and their changes."""
    path = self.place / 'compare.npz'
    if not path.exists():  # a comparison by an earlier version
      caption = 'Samples with the same labels and noise for every method.'
      return self._picture(self.place / 'samples.png', caption, kind='photo')

    def show(path: epath.Path) -> Markup:
      strips, classes = read_strips(path)
      differences, rows = changes(strips), []
      for k, row in enumerate(strips):
        rows.append((row.title, row.text, strip(row.images)))
        if k in differences:
          title = f'{row.title}: change x {AMPLIFIED}'
          rows.append(('', title, strip(differences[k])))
      return self._html.note(
        'The first image of each class shown; all methods start from the same '
        f'noise. Columns: {", ".join(classes)}. Below each method is its '
        f'change from the first method; gray means no change. {SMOOTH}'
      ) + self._html.strips(rows)

    return self._file(path, show)

  def sweeps(self) -> Markup:
    sweeps = [
      self._undamaged(path.parent, self._sweep, path)
      for path in _paths(self.place, 'sweep.json')
      if (path.parent / 'sweep.png').exists()  # the sweep writes this file last
    ]
    network = self._experiment.model
    methods = ['ig:1.0..2.0:6'] * bool(network.taps)
    methods += ['cfg:1.0..2.0:6'] * bool(network.null_label)
    if sweeps or (self.place / TEACHER).exists() or not methods:
      return Markup('').join(sweeps) or self._html.nothing()
    text = ','.join(methods)
    texts = SweepGrid.of(text).texts()
    return self._html.nothing(
      self._advice('sweep', f'--guidance={text}', guidance=texts)
    )

  def _sweep(self, path: epath.Path) -> Markup:
    folder, protocol = path.parent, read_json(path)
    names, points = read_points(folder / 'sweep.csv')
    guidance, sampling = protocol['guidance'], protocol['sampling']
    for k in range(guidance.count('*')):
      scales = sorted({point[k] for point in points})
      span = f'{scales[0]:g}..{scales[-1]:g}:{len(scales)}'
      guidance = guidance.replace('*', span, 1)
    caption = (
      f'{protocol["num"]} images per point; {sampling["solver"]}, '
      f'{sampling["steps"]} steps, seed {protocol["seed"]}; in {folder.name}/.'
    )
    cells = [[f'{value:.6g}' for value in point] for point in points]
    return (
      self._html.heading(guidance)
      + self._picture(folder / 'sweep.png', caption)
      + self._html.folded('All points', self._html.table(names, cells))
    )

  def evaluations(self) -> Markup:
    paths = list(_paths(self.place / 'evaluation', 'evaluation*.md'))
    if not paths:
      return self._html.nothing(self._advice('evaluate', '--num=500'))
    rows: list[dict[str, str]] = []

    def read(path: epath.Path) -> Markup:
      names, values = _cells(path)
      rows.append(dict(zip(names, *values, strict=True)))
      return Markup('')

    notes = Markup('').join(self._file(path, read) for path in paths)
    if not rows:
      return notes
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return notes + self._html.table(
      columns, [[row.get(name, '') for name in columns] for row in rows]
    )

  def config(self) -> Markup:
    """Shows all config keys, with differences from configs/base.py in bold."""
    base = flatten(load_config('configs/distill/base.py').to_dict())
    html = self._html.note('Bold: different from configs/base.py.')
    for section, values in load_run_config(self.place).items():
      flat = flatten({section: values})
      changes = [key for key in flat if flat[key] != base.get(key, flat[key])]
      html += self._html.config(section, flat, changes)
    return html

  def _undamaged(
    self, name: Any, show: Callable[..., Markup], *args: Any
  ) -> Markup:
    """Returns `show(*args)`; if a file is damaged, returns a remark instead."""
    try:
      return show(*args)
    except InputError as error:  # the message names the file
      reason = str(error)
    except (
      OSError, ValueError, LookupError, TypeError, AttributeError,
      jinja2.UndefinedError,
    ) as error:  # fmt: skip
      text = ' '.join(str(error).split())[:200]
      reason = f'{name} is damaged ({type(error).__name__}: {text}).'
    logging.warning('%s', reason)
    return self._html.note(f'Left out: {reason}')

  def _file(
    self, path: epath.Path, show: Callable[[epath.Path], Markup]
  ) -> Markup:
    """Shows a file if the file exists."""
    return self._undamaged(path, show, path) if path.exists() else Markup('')

  def _picture(
    self, path: epath.Path, caption: str, kind: str = 'chart'
  ) -> Markup:
    return self._file(
      path, lambda path: self._html.figure(path.read_bytes(), caption, kind)
    )

  def _plots(self, *groups: tuple[str, Mapping[str, Figure]]) -> Markup:
    """Shows groups of charts with a caption each; leaves out empty groups."""
    parts = [self._html.charts(plots, text) for text, plots in groups if plots]
    return Markup('').join(parts) or self._html.nothing()


def _cells(path: epath.Path) -> tuple[list[str], list[list[str]]]:
  """Returns the column names and the rows of a Markdown table."""
  names, _, *rows = (
    [cell.strip() for cell in line.strip().strip('|').split('|')]
    for line in path.read_text().splitlines()
  )
  return names, rows


def _paths(folder: epath.Path, pattern: str) -> Iterator[epath.Path]:
  """Yields the files of a folder, then of its subfolders, in sorted order."""
  for depth in ('', '*/'):
    yield from sorted(folder.glob(depth + pattern))
