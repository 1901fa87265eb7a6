"""The commands `sample`, `compare` and `sweep`: from weights to results.

Each checks everything that it can before it reads weights, then draws.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dit import model
from dit.config import check_choice
from dit.path import Path, path_named
from dit.sharding import check_model, make_mesh
from dit.types import Denoiser, InputError
from guidance import parse
from guidance.parse import describe, with_guide
from sample import compare as compare_lib
from sample import generate, sampler, writer
from sample import sweep as sweep_lib
from sample.store import Store
from train import trained, workdir
from train.data.source import check_source, load_all, open_source
from train.experiment import Experiment
from train.log import image_progress
from train.settings import load_config
from train.trained import Source

PRESETS = 'configs/presets.py'


@dataclasses.dataclass(frozen=True)
class Request:
  """What every command of this module is told.

  Attributes:
    source: the run or folder to sample from.
    overrides: assignments to config keys, such as 'sample.steps=50'.
    guide: AutoGuidance's weaker network, or None.
    seed: of all noise.
    out: folder for the results; None for one of the command's choice.
  """

  source: Source
  overrides: Sequence[str] = ()
  guide: Source | None = None
  seed: int = 0
  out: str | None = None

  def __post_init__(self) -> None:
    """Checks the seed."""
    if not 0 <= self.seed < 2**32:
      raise InputError(f'--seed is {self.seed}, expected 0 to 2^32 - 1.')


class _Opened:
  """A request looked at: everything but the weights."""

  def __init__(self, request: Request) -> None:
    """Opens; compiles nothing and reads no weights."""
    self._request = request
    self.experiment: Experiment = request.source.open(request.overrides)
    self.mesh: Mesh = make_mesh(self.experiment.mesh)
    check_model(self.mesh, self.experiment.model)
    self.path: Path = path_named(self.experiment.objective.path)
    self._guide: Experiment | None = None
    if request.guide is not None:
      self._guide = request.guide.open(())
      trained.check_guide(self._guide, self.experiment)

  def check(self, texts: Sequence[str]) -> None:
    """Raises InputError if one of these cannot be served."""
    methods = [parse(text) for text in texts]
    guide = model.bind(self._guide.model, {}) if self._guide else None
    if guide and not any(method.wants_guide for method in methods):
      raise InputError('--guide is for guidance auto, which is not asked for.')
    network = model.bind(self.experiment.model, {})
    for method in methods:
      method = with_guide(method, guide)
      generate.check(
        self.experiment.sample,
        method,
        network,
        self.mesh,
        self.path,
        self.experiment.model.latent_shape,
      )

  def check_weights(self) -> None:
    """Raises InputError if there are none."""
    for source in (self._request.source, self._request.guide):
      if source is not None:
        source.check()

  def restore(self) -> tuple[Denoiser, Denoiser | None, dict[str, Any]]:
    """The denoiser, the guide, and what results say of both."""
    request = self._request
    denoiser, about = request.source.restore(self.experiment, self.mesh)
    if request.guide is None:
      return denoiser, None, about
    guide, of_guide = request.guide.restore(self._guide, self.mesh)
    return denoiser, guide, {**about, 'guide': of_guide}

  def splits(self) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels to measure against: the training and the test split."""
    if not self._request.source.is_run:
      raise InputError('a folder of weights has no data to measure against.')
    data, splits = self.experiment.data, []
    for split in (data.train_split, data.test_split):
      source = open_source(data, split)
      check_source(source, data, self.experiment.model)
      splits.append(load_all(source))
    return splits


def preset(name: str) -> tuple[str, list[str]]:
  """Guidance, and assignments to all keys of sampling but the batch size.

  Raises:
    InputError: for an unknown name; names the known ones.
  """
  presets = load_config(PRESETS)
  check_choice('--preset', name, presets)
  chosen = presets[name]
  sampling = load_config('configs/base.py').sample.to_dict() | dict(
    chosen.sample
  )
  del sampling['batch_size']
  return chosen.guidance, [f'sample.{k}={v}' for k, v in sampling.items()]


def sample(
  request: Request,
  guidance: str,
  *,
  num: int,
  labels: str = 'balanced',
  autoencoder: str | None = None,
  form: str = 'npz',
  overwrite: bool = False,
) -> None:
  """Draws images into a folder; goes on where it was interrupted.

  Args:
    request: from what, and where to.
    guidance: as text.
    num: how many.
    labels: their plan; see `generate.plan_labels`.
    autoencoder: as `trained.read_autoencoder` reads it.
    form: one of `store.FORMATS`.
    overwrite: discards images of another protocol in the folder.
  """
  method = parse(guidance)
  if num < 1:
    raise InputError(f'--num is {num}, expected at least 1.')
  opened = _Opened(request)
  opened.check([guidance])
  experiment, config = opened.experiment, opened.experiment.sample
  plan = generate.plan_labels(
    labels, num, experiment.model.num_classes, request.seed
  )
  opened.check_weights()
  decoder = trained.read_decoder(
    autoencoder, experiment, request.source.latents(), opened.mesh
  )
  name = describe(method).replace(':', '-').replace(',', '_')
  folder = request.out or f'{request.source.place}/samples/{name}'
  writer.results_folder(folder)  # fails before weights are read
  denoiser, guide, about = opened.restore()
  method = with_guide(method, guide)
  sampling = dataclasses.asdict(config)
  batch_size = sampling.pop('batch_size')
  protocol = {
    **about,
    'guidance': describe(method),
    'sampling': sampling,
    'autoencoder': decoder
    and {
      'name': autoencoder.partition(':')[0],
      'weights_sha256': model.fingerprint(decoder.params),
    },
    'labels': labels,
    'num': num,
    'seed': request.seed,
  }
  with contextlib.ExitStack() as stack:
    store = None
    if jax.process_index() == 0:  # which writes, and tells the others
      store = Store(folder, protocol, plan, form=form, overwrite=overwrite)
      stack.callback(store.close)
      if store.complete:
        logging.info('Already drawn: %d images in %s.', num, store.folder)
    missing, spent = _missing(store, num), []
    done = num - len(missing)
    if 0 < done < num:
      logging.info('%d of %d images are there.', done, num)
    progress = stack.enter_context(image_progress(num, done))
    for batch in generate.batches(
      denoiser,
      method,
      plan,
      config,
      path=opened.path,
      shape=experiment.model.latent_shape,
      mesh=opened.mesh,
      seed=request.seed,
      index=missing,
      autoencoder=decoder,
    ):
      if store is not None:
        store.add(batch.index, batch.images)
      done += len(batch.index)
      spent.append(batch.nfe)
      progress(done)
    if store is None or store.complete:
      return
    nfe = generate.declared_nfe(
      denoiser, method, config, opened.path, request.seed
    )
    if nfe is None and spent:  # of an adaptive solver: that of these images
      nfe = float(np.mean(spent))
    steps = len(config.grid(opened.path)) - 1
    store.finish(
      {
        'nfe_per_image': nfe,
        'skipped_blocks': sampler.skipped_blocks(
          method, denoiser, request.seed, steps
        ),
        'solver_steps': steps,
        'batch_size': batch_size,
        'autoencoder_files': autoencoder,
        **workdir.environment(),
      }
    )
  cost = 'NFE unknown' if nfe is None else f'NFE {nfe:.4g}'
  logging.info(
    '%d images (%s, %s) in %s.',
    num, describe(method), cost, folder,
  )  # fmt: skip


def _missing(store: Store | None, num: int) -> np.ndarray:
  """Numbers of the images to draw, the same in every process."""
  mask = np.zeros(num, bool)
  if store is not None:
    mask[store.missing()] = True
  if jax.process_count() > 1:
    mask = multihost_utils.broadcast_one_to_all(mask)
  return np.flatnonzero(mask)


def compare(request: Request) -> str:
  """Guidance methods side by side; returns the table and how to read it."""
  opened = _Opened(request)
  experiment = opened.experiment
  opened.check(experiment.compare.texts())
  splits = opened.splits()
  opened.check_weights()
  out = writer.results_folder(request.out or request.source.place)
  denoiser, guide, protocol = opened.restore()
  table = compare_lib.compare(
    denoiser,
    experiment.compare,
    experiment.sample,
    path=opened.path,
    shape=experiment.model.latent_shape,
    mesh=opened.mesh,
    seed=request.seed,
    reference=splits[0],
    held_out=splits[1],
    protocol=protocol,
    folder=out,
    guide=guide,
  )
  return (
    f'\n{table}\n'
    f'Frechet distances to {len(splits[0][0])} real images of '
    f'{experiment.data.name} ± bootstrap standard error, '
    f'{experiment.compare.num} images per method; features of a classifier '
    'trained on those images (not FID).\n'
    '"gain" is the fall of a distance against the first row, in standard '
    'errors of the difference: not above 2 means no help that shows here, '
    'negative means harm.\n'
    f'Pictures: {out}/samples.png, {out}/guidance.png, '
    f'{request.source.place}/loss.png'
  )


def sweep(
  request: Request, guidance: str, *, metric: str, num: int, overwrite: bool
) -> str:
  """A table and a picture of a metric over scales; returns the table.

  Args:
    request: from what, and where to.
    guidance: as text, one or two scales being ranges LOW..HIGH:COUNT.
    metric: one of `sweep.METRICS`, for the picture.
    num: images for each point.
    overwrite: discards points of another protocol in the folder.
  """
  grid = sweep_lib.SweepGrid.of(guidance)
  check_choice('--metric', metric, sweep_lib.METRICS)
  if num < 2:
    raise InputError(f'--num is {num}, expected at least 2.')
  opened = _Opened(request)
  opened.check(grid.texts())
  experiment, (reference, _) = opened.experiment, opened.splits()
  opened.check_weights()
  folder = writer.results_folder(request.out or f'{request.source.place}/sweep')
  denoiser, guide, protocol = opened.restore()
  return sweep_lib.sweep(
    denoiser,
    grid,
    experiment.sample,
    metric=metric,
    num=num,
    path=opened.path,
    shape=experiment.model.latent_shape,
    mesh=opened.mesh,
    seed=request.seed,
    reference=reference,
    resamples=experiment.compare.resamples,
    protocol=protocol,
    folder=folder,
    guide=guide,
    overwrite=overwrite,
  )
