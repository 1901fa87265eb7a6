"""Runs the recipe of SD3.5-Flash (arXiv 2509.21318), a sequence of stages.

The stages are trajectory guidance, DMD with timestep sharing, and fine-tuning
of two branches: one on low times of the grid, one on high times. The branches
are then merged, with the ratio that gives the lowest Frechet distance:

  merged = ratio low + (1 - ratio) high

The distance uses noise that no stage has seen. Every stage is a run in the
recipe's workdir, so the same command resumes the recipe. The recipe writes

  1-NAME, 2-NAME, ...   runs of the stages
  student               weights folder for `sample --folder`
  merge.json, merge.md  measurements for each ratio
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError
from core.files import write_bytes, write_json
from core.progress import image_progress
from distill import run as distilling
from distill.config import StudentExperiment, build_student
from distill.lineage import about_student
from dit import model
from dit.autoencoder import Autoencoder
from dit.base import Params
from dit.sharding import make_mesh
from dit.weights.folder import check_target, save_folder
from sample.decoder import read_decoder
from sample.model_card import FILE as CARD
from sample.model_card import model_card
from sample.saved_network import load_latents
from train import workdir as workdir_lib
from train.config_file import load_config, override
from train.previews import Scores
from train.runs import run_weights, sampling_of

STUDENT = 'student'
Measure = Callable[[Params], dict[str, float]]


def merged(low: Params, high: Params, ratio: float) -> Params:
  """Returns ratio low + (1 - ratio) high; ratios 0 and 1 return one branch."""
  if ratio in (0, 1):
    return low if ratio else high
  return jax.tree.map(lambda a, b: ratio * a + (1 - ratio) * b, low, high)


def sweep(
  low: Params,
  high: Params,
  before: Params,
  ratios: Sequence[float],
  measure: Measure,
) -> tuple[float, list[dict[str, Any]]]:
  """Returns the best ratio, and the metrics of `before` and of every ratio.

  Args:
    low: Weights of the branch of low times.
    high: Weights of the branch of high times.
    before: Weights from which both branches started.
    ratios: Ratios to try.
    measure: Function from weights to metrics; 'fd' is missing if too many
      images are not finite.
  """
  rows: list[dict[str, Any]] = [{'ratio': None, **measure(before)}]
  for ratio in ratios:
    rows.append({'ratio': ratio, **measure(merged(low, high, ratio))})
    logging.info('Ratio %g: fd %.4g.', ratio, rows[-1].get('fd', math.nan))
  best = min(rows[1:], key=lambda row: row.get('fd', math.inf))
  return best['ratio'], rows


def stages(
  spec: str, overrides: Sequence[str]
) -> tuple[StudentExperiment, list[dict[str, Any]]]:
  """Returns the recipe's experiment, and the config of each of its stages."""
  file = spec.partition(':')[0]
  experiment = build_student(override(load_config(spec), overrides).to_dict())
  configs = [
    override(load_config(f'{file}:{name}'), overrides).to_dict()
    for name in experiment.distill.stages
  ]
  for n, config in enumerate(configs):
    config['seed'] = (config['seed'] + n) % 2**32  # different noise per stage
  return experiment, configs


def run(
  spec: str,
  overrides: Sequence[str],
  workdir: epath.PathLike,
  autoencoder: str | None = None,
) -> str | None:
  """Runs all stages and the merge; returns a report, or None if stopped.

  Args:
    spec: Config as FILE:ARGUMENT.
    overrides: Assignments to config keys, for every stage.
    workdir: Folder of the recipe.
    autoencoder: Name or path of the decoder; None for the teacher's decoder.

  Raises:
    InputError: The settings are invalid; no stage has started.
  """
  place = epath.Path(workdir).expanduser().resolve()
  recipe, configs = stages(spec, overrides)
  names = recipe.distill.stages
  # A stage's argument ends with METHOD,STEPS; the folder's name has METHOD.
  folders = [
    place / f'{n}-{name.split(",")[-2:][0]}' for n, name in enumerate(names, 1)
  ]
  _check(
    recipe, [build_student(config) for config in configs], place, autoencoder
  )
  with workdir_lib.training(place, 'distill'):
    for n, (config, folder) in enumerate(zip(configs, folders, strict=True)):
      if n:  # both branches start from the stage before the first branch
        parent = folders[min(n, len(names) - 2) - 1]
        config['train']['init_from'] = str(parent)
      experiment = build_student(config)
      if n:  # a relative path stays valid if the workdir is moved
        config['train']['init_from'] = workdir_lib.beside(parent)
      logging.info('Stage %d of %d: %s.', n + 1, len(names), folder)
      # A stage must not be extended later: the next stage starts at its end.
      with workdir_lib.training(folder, 'distill'):
        is_done = distilling.distill(
          experiment, folder, config, autoencoder, extensible=False
        )
        if not is_done:
          return None
    return _merge(recipe, place, folders[-3:])


def _check(
  recipe: StudentExperiment,
  stages: Sequence[StudentExperiment],
  workdir: epath.Path,
  autoencoder: str | None,
) -> None:
  names = recipe.distill.stages
  branches = [experiment.distill.branch for experiment in stages]
  if branches[-2:] != ['low', 'high'] or len(names) < 3 or any(branches[:-2]):
    raise InputError(
      f'distill.stages is {names}, expected at least three, of which the last '
      'two have distill.branch low and high.'
    )
  if not recipe.distill.merge_ratios:
    raise InputError('distill.merge_ratios is empty; name some, such as 0.3.')
  if not (workdir / STUDENT).exists():
    check_target(workdir / STUDENT)
  for experiment in stages:
    setup = distilling.check(experiment, autoencoder=autoencoder).setup
  decoder = read_decoder(None, recipe.model.channels, setup.latents, setup.mesh)
  if 'fd' not in _scores(recipe, decoder, setup.mesh).metrics:
    raise InputError(
      f'eval.metrics is {recipe.eval.metrics}, but the ratio of the merge is '
      'chosen by fd; add it.'
    )


def _scores(
  experiment: StudentExperiment, decoder: Autoencoder | None, mesh: Mesh
) -> Scores:
  """Returns the scorer of merged weights, with noise that no stage has seen."""
  config = dataclasses.replace(experiment.eval, guidance='none', every_images=1)
  return Scores(
    dataclasses.replace(
      experiment,
      seed=_seed(experiment),
      eval=config,
      checkpoint=dataclasses.replace(experiment.checkpoint, best_by='loss'),
    ),
    mesh,
    decoder,
  )


def _seed(experiment: StudentExperiment) -> int:
  """Returns a seed that differs from the seeds of all stages."""
  return (experiment.seed + 101) % 2**32


def _merge(
  experiment: StudentExperiment,
  workdir: epath.Path,
  folders: Sequence[epath.Path],
) -> str:
  """Merges the branches in `folders` (before, low, high) into the student."""
  target, table = workdir / STUDENT, workdir / 'merge.md'
  if target.exists():
    return f'{table.read_text()}\nAlready merged: {target}.'
  mesh = make_mesh(experiment.mesh)
  latents = load_latents(folders[0])
  decoder = read_decoder(None, experiment.model.channels, latents, mesh)
  scores = _scores(experiment, decoder, mesh)
  base, low, high = (
    run_weights(str(folder), experiment.model, mesh, 'ema')[0]
    for folder in folders
  )
  scores.open()
  ratios, num, done = experiment.distill.merge_ratios, experiment.eval.num, 0
  with image_progress(num * (1 + len(ratios)), 0, 'merge') as progress:

    def measure(params):
      nonlocal done
      values = scores.measure(params).items()
      progress(done := done + num)
      return {name.removeprefix('eval/'): value for name, value in values}

    ratio, rows = sweep(low, high, base, ratios, measure)
  summary = {'ratio': ratio, 'rows': rows, 'seed': _seed(experiment)}
  write_json(
    workdir / 'merge.json',
    {**summary, 'evaluation': scores.evaluator.protocol()},
  )
  text = _table(rows)
  write_bytes(table, text.encode())
  params = jax.tree.map(model.on_host, merged(low, high, ratio))
  text += (
    '\nratio: weight of the low branch; -: the stage before both. '
    f'{num} images of seed {_seed(experiment)}, features of '
    f'{scores.evaluator.extractor.name}.\n'
  )
  # The folder `student` is written last: its presence marks a complete merge.
  if jax.process_index() == 0:
    info = {
      'weights': 'ema',
      'source': str(workdir),
      'path': experiment.objective.path,
      'latents': latents.to_json(),
      'sample': sampling_of(experiment),
      'merge': summary,
      'student': about_student(folders[-1], 'SD3.5-Flash'),
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    card = model_card(
      workdir.name, experiment.model, info, count=count, results=text
    )
    save_folder(target, experiment.model, params, info=info, files={CARD: card})
  return f'{text}The student, of ratio {ratio:g}: {target}'


def _table(rows: Sequence[dict[str, Any]]) -> str:
  names = list(dict.fromkeys(n for row in rows for n in row if n != 'ratio'))
  lines = ['| ratio | ' + ' | '.join(names) + ' |']
  lines.append('|---' * (len(names) + 1) + '|')
  for row in rows:
    ratio = '-' if row['ratio'] is None else f'{row["ratio"]:g}'
    cells = [f'{row.get(name, math.nan):.4g}' for name in names]
    lines.append('| ' + ' | '.join([ratio, *cells]) + ' |')
  return '\n'.join(lines) + '\n'
