"""Sampling jobs of the commands, checked before weights are read.

A `SampleRequest` becomes a `SampleJob`. The subclass `ImageJob` adds guidance
and labels.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from commands.presets import PRESETS
from core.errors import InputError
from core.ranges import Count, PathText, Seed, check_value
from dit import backbone, model
from dit.autoencoder import Autoencoder
from dit.config import DiTConfig, named_size
from dit.latents import LatentSpace
from dit.path import Path, path_named
from dit.sharding import make_mesh
from dit.types import Denoiser
from dit.weights.files import HUB, fetch_folder
from evaluate.real_images import load_images
from guidance import Guidance, parse
from guidance.parse import describe, with_guide
from input_pipeline.sources import check_source, open_source
from sample import generate, sampler
from sample.decoder import place_of, read_decoder
from sample.generate import Sampler
from sample.labels import find_classes
from train import runs
from train.config_file import load_config
from train.experiment import Experiment
from train.runs import Source


@dataclasses.dataclass(frozen=True)
class SampleRequest:
  """Arguments that all sampling commands share.

  Attributes:
    source: Run or folder to sample from.
    overrides: Assignments to config keys, such as 'sample.steps=50'.
    guide: AutoGuidance's weaker network, or None.
    seed: Seed of all noise.
    out: Folder of the results; None for the command's default.
    autoencoder: Decoder of latents in the syntax of `dit.autoencoder.files`;
      None for the decoder that the run or folder records.
    home: Folder in which `out` lies by default; None for the source itself.
  """

  source: Source
  overrides: Sequence[str] = ()
  guide: Source | None = None
  seed: int = 0
  out: str | None = None
  autoencoder: str | None = None
  home: str | None = None

  def __post_init__(self) -> None:
    check_value('--seed', self.seed, Seed)
    check_value('--out', os.fspath(self.out or ''), PathText)


def request_of(
  args: argparse.Namespace, overrides: Sequence[str] = ()
) -> SampleRequest:
  """Returns the request of the flags; user assignments win over `overrides`."""
  guide = None
  if args.guide:
    guide = Source.at(fetch_folder(args.guide), step=args.guide_step)
  elif args.guide_step is not None:
    raise InputError('--guide_step needs --guide.')
  home = None
  if args.folder and args.folder.startswith(HUB):
    # Results must not lie in the cache of the Hub.
    home = args.folder.partition('@')[0].rstrip('/').rpartition('/')[2]
  return SampleRequest(
    Source(
      args.workdir or fetch_folder(args.folder),
      is_run=args.workdir is not None,
      weights=args.weights,
      step=args.step,
    ),
    [*overrides, *args.overrides],
    guide,
    args.seed,
    args.out,
    args.autoencoder,
    home,
  )


class SampleJob:
  """A request with checked settings; only `restore` reads the weights.

  Attributes:
    experiment: Settings of the run or folder, with the overrides.
    mesh: Devices to sample on.
    path: Interpolation of data and noise; the network predicts its velocity.
  """

  def __init__(self, request: SampleRequest) -> None:
    self._request = request
    self.experiment: Experiment = request.source.open(request.overrides)
    self.mesh: Mesh = make_mesh(self.experiment.mesh)
    backbone.check_mesh(self.mesh, self.experiment.model)
    self.path: Path = path_named(self.experiment.objective.path)
    self._guide: Experiment | None = None
    if request.guide is not None:
      self._guide = request.guide.open(())
      runs.check_task('the guide', self._guide, self.experiment)

  def check(self, texts: Sequence[str]) -> None:
    """Raises InputError if the network does not support a guidance text."""
    methods = [parse(text) for text in texts]
    if self._guide and not any(method.wants_guide for method in methods):
      raise InputError('--guide is for guidance auto, which is not used.')
    for method in methods:
      self._check(method)

  def _check(self, method: Guidance) -> None:
    guide = backbone.bind(self._guide.model, {}) if self._guide else None
    self.make_sampler().check(with_guide(method, guide))

  def serves(self, text: str) -> bool:
    """Returns whether the network supports a guidance text."""
    try:
      self._check(parse(text))
    except InputError:
      return False
    return True

  def make_sampler(
    self, denoiser: Denoiser | None = None, decoder: Autoencoder | None = None
  ) -> Sampler:
    """Returns a sampler; a sampler without a denoiser can only be checked."""
    if denoiser is None:
      denoiser = backbone.bind(self.experiment.model, {})
    return Sampler(
      denoiser,
      self.experiment.sample,
      self.path,
      self.experiment.model.latent_shape,
      self.mesh,
      decoder,
    )

  def check_weights(self) -> None:
    """Raises InputError if the weights of the network or guide are missing."""
    for source in (self._request.source, self._request.guide):
      if source is not None:
        source.check()

  def restore(self) -> tuple[Denoiser, Denoiser | None, dict[str, Any]]:
    """Returns the denoiser, the guide, and the protocol of both networks."""
    request = self._request
    denoiser, protocol = request.source.restore(self.experiment, self.mesh)
    if request.guide is None or self._guide is None:
      return denoiser, None, protocol
    guide, origin = request.guide.restore(self._guide, self.mesh)
    return denoiser, guide, {**protocol, 'guide': origin}

  @functools.cached_property
  def latents(self) -> LatentSpace:
    """Latent space of the training data; unknown fields are empty."""
    return self._request.source.latents()

  @property
  def autoencoder(self) -> str | None:
    """Name and files of the decoder, from --autoencoder or from the run."""
    return place_of(self._request.autoencoder, self.latents)

  @functools.cached_property
  def decoder(self) -> Autoencoder | None:
    """Decoder of latents, or None; raises InputError if it does not fit."""
    return read_decoder(
      self._request.autoencoder,
      self.experiment.model.channels,
      self.latents,
      self.mesh,
    )

  def about_decoder(self) -> dict[str, str] | None:
    """Returns the description of the decoder for the results."""
    if self.decoder is None:
      return None
    return {
      'name': (self.autoencoder or '').partition(':')[0],
      'weights_sha256': model.fingerprint(self.decoder.params),
    }

  def splits(self) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns images and labels of the training split, then the test split."""
    if not self._request.source.is_run:
      raise InputError('a folder of weights has no real images.')
    data, splits = self.experiment.data, []
    for split in filter(None, (data.train_split, data.test_split)):
      source = open_source(data, split)
      check_source(source, data, self.experiment.model)
      splits.append(
        load_images(
          source, self.decoder, self.mesh, self.experiment.eval.batch_size
        )
      )
    return splits


class ImageJob(SampleJob):
  """A job that samples images with one guidance and a plan of labels."""

  def __init__(
    self,
    request: SampleRequest,
    guidance: str,
    *,
    num: int,
    labels: str,
    preset: str | None = None,
  ) -> None:
    """Checks all settings and reads the decoder.

    The labels of the `num` images follow the plan `labels` (see
    `generate.plan_labels`). The cost of `preset`, a name in configs/presets.py,
    is logged. Raises InputError if the images cannot be sampled.
    """
    self._method = parse(guidance)
    check_value('--num', num, Count)
    super().__init__(request)
    self.check([guidance])
    self._seed = request.seed
    self._names = self.latents.classes
    count = self.experiment.model.num_classes
    self.labels = generate.plan_labels(
      labels, num, count, request.seed, self._names
    )
    # The protocol stores class indices, even if the user gives class names.
    self._plan = labels
    if labels not in generate.PLANS:
      self._plan = ','.join(map(str, find_classes(labels, count, self._names)))
    self.check_weights()
    self._sampler = self.make_sampler(decoder=self.decoder)
    if preset is not None:
      self._announce(preset)

  def folder_in(self, parent: str) -> str:
    """Returns the results folder, by default named after the guidance."""
    name = self.guidance.replace(':', '-').replace(',', '_')
    folder = self._request.home or self._request.source.place
    return self._request.out or f'{folder}/{parent}/{name}'

  @property
  def guidance(self) -> str:
    """Guidance as text, with methods in canonical order."""
    return describe(self._method)

  @property
  def classes(self) -> dict[str, str]:
    """Known names of the sampled classes, by label."""
    labels = np.unique(self.labels).tolist()
    count = len(self._names)
    return {str(k): self._names[k] for k in labels if k < count}

  def load(self) -> dict[str, Any]:
    """Reads the weights; returns the protocol, which determines the images."""
    denoiser, guide, protocol = self.restore()
    self._sampler = dataclasses.replace(self._sampler, denoiser=denoiser)
    self._method = with_guide(self._method, guide)
    sampling = dataclasses.asdict(self.experiment.sample)
    del sampling['batch_size']  # the batch size does not affect the images
    return {
      **protocol,
      'guidance': self.guidance,
      'sampling': sampling,
      'autoencoder': self.about_decoder(),
      'labels': self._plan,
      'num': len(self.labels),
      'seed': self._seed,
    }

  def batches(self, index: np.ndarray) -> Iterator[generate.Batch]:
    """Yields the images with the indices `index`, in batches."""
    return self._sampler.batches(self._method, self.labels, self._seed, index)

  def _announce(self, preset: str) -> None:
    """Logs the cost of a preset, and differences from the preset's network."""
    network = load_config(PRESETS)[preset].network
    config = self.experiment.model
    cost = self._sampler.nfe(self._method, self._seed)
    sizes = named_size(network)
    note = ''
    if not isinstance(config, DiTConfig):
      note = f'; this network is a {backbone.name_of(config)}'
    elif any(
      getattr(config, k) != sizes[k] for k in ('depth', 'width', 'patch')
    ):
      note = (
        f'; this network differs: {config.depth} blocks, width '
        f'{config.width}, patch {config.patch}'
      )
    logging.info(
      'Preset %s: %s NFE per image, published for %s%s.',
      preset, 'unknown' if cost is None else f'{cost:.4g}', network, note,
    )  # fmt: skip

  def nfe(self, spent: Sequence[float]) -> float | None:
    """Returns NFE per image; for an adaptive solver, the mean of `spent`."""
    declared = self._sampler.nfe(self._method, self._seed)
    if declared is None and len(spent):
      return float(np.mean(spent))
    return declared

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """Shape (H, W, C) of the images; None if a decoder determines the shape."""
    return None if self.decoder else self.experiment.model.latent_shape

  @property
  def steps(self) -> int:
    """Number of solver steps."""
    return len(self._sampler.grid) - 1

  def skipped_blocks(self) -> Any:
    """Returns the blocks that S2 skipped; see `sampler.skipped_blocks`."""
    return sampler.skipped_blocks(
      self._method, self._sampler.denoiser, self._seed, self.steps
    )
