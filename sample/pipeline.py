"""A checkpoint as a function from labels to images, for notebooks.

  from sample import load, tile

  pipeline = load('runs/digits')
  images = pipeline([3, 8] * 8, 'ig:1.5,cfg:1.2@0-0.7', steps=25)
  Image.fromarray(tile(images, columns=8).squeeze())

`load` reads a run, or a folder of weights from `main.py convert`. The images
equal the output of `main.py sample` for equal weights, labels and seed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, nearest
from core.ranges import Range, Seed, check_value
from dit import backbone
from dit.path import path_named
from dit.sharding import MeshConfig, batch_parts, make_mesh
from dit.types import Denoiser
from guidance import Guidance, parse
from guidance.parse import with_guide
from sample.decoder import read_decoder
from sample.generate import SampleConfig, Sampler
from sample.labels import find_classes
from sample.saved_network import open_network
from sample.trajectory import Film, record_trajectory

Labels = str | Sequence[int | str] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A sampler that accepts class names, and guidance as text.

  `classes` lists the class names in the order of the labels; () if unknown.
  """

  sampler: Sampler
  classes: tuple[str, ...] = ()

  @property
  def denoiser(self) -> Denoiser:
    """Network with its parameters on the devices."""
    return self.sampler.denoiser

  @property
  def sampling(self) -> SampleConfig:
    """Settings of the sampler."""
    return self.sampler.config

  def __call__(
    self,
    labels: Labels,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> np.ndarray:
    """Samples images (n, H, W, C) uint8.

    Args:
      labels: Class of each image (n,), by number or name, or text such as
        'bird,3'.
      guidance: Guidance as text, such as 'ig:1.5,cfg:1.2@0-0.7', or as an
        object.
      seed: Random seed of all noise. Image i depends on the seed and on i.
      guide: Pipeline of the weaker network, for the guidance 'auto'.
      **sampling: Fields of `SampleConfig` to change, such as steps=25.

    Raises:
      InputError: An argument is invalid.
    """
    check_value('seed', seed, Seed)
    labels, sampler = self._checked(labels), self._sampler(sampling)
    # Padding takes time, so the batch is as small as images and devices allow.
    parts = batch_parts(sampler.mesh)
    total = -(-len(labels) // parts) * parts
    batch_size = min(sampler.config.batch_size, total)
    config = dataclasses.replace(sampler.config, batch_size=batch_size)
    sampler = dataclasses.replace(sampler, config=config)
    return sampler.images(self._method(guidance, guide), labels, seed).images

  def film(
    self,
    labels: Labels,
    guidance: str | Guidance,
    *,
    seed: int = 0,
    frames: int = 10,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> Film:
    """Records the effect of guidance; see `sample.trajectory`."""
    check_value('seed', seed, Seed)
    check_value('frames', frames, Annotated[int, Range(1, 10_000)])
    return record_trajectory(
      self._sampler(sampling),
      self._method(guidance, guide),
      self._checked(labels),
      seed,
      frames,
    )

  def nfe(
    self,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> float | None:
    """Returns network evaluations per image; None for an adaptive solver."""
    check_value('seed', seed, Seed)
    method, sampler = self._method(guidance, guide), self._sampler(sampling)
    sampler.check(method)
    return sampler.nfe(method, seed)

  def _sampler(self, changes: Mapping[str, Any]) -> Sampler:
    names = [field.name for field in dataclasses.fields(SampleConfig)]
    for name in changes:
      if name not in names:
        raise InputError(
          f'unknown setting {name!r}; there are {", ".join(names)}.'
          + nearest(name, names)
        )
    config = dataclasses.replace(self.sampling, **changes)
    return dataclasses.replace(self.sampler, config=config)

  def _method(
    self, guidance: str | Guidance, guide: 'Pipeline | None'
  ) -> Guidance:
    if isinstance(guidance, str):
      guidance = parse(guidance)
    elif not isinstance(guidance, Guidance):
      raise InputError(
        f'guidance is {guidance!r}, expected text such as ig:1.5, or none.'
      )
    if guide is None:
      return guidance
    if not guidance.wants_guide:
      raise InputError('a guide is for guidance auto, which is not in use.')
    other, pair = ((p.sampler.path, p.sampler.shape) for p in (guide, self))
    if other != pair:
      raise InputError(
        f'the guide has path and latents {other}, the network {pair}; they '
        'must be trained for the same task.'
      )
    return with_guide(guidance, guide.denoiser)

  def _checked(self, labels: Labels) -> np.ndarray:
    value, count = labels, self.denoiser.num_classes
    if isinstance(labels, str):
      labels = find_classes(labels, count, self.classes)
    elif isinstance(labels, list | tuple):
      labels = [self._number(k) if isinstance(k, str) else k for k in labels]
    try:
      labels = np.asarray(labels)
    except ValueError:  # rows of different lengths
      labels = np.zeros(0)
    if (
      labels.ndim != 1
      or not labels.size
      or labels.dtype.kind not in 'iu'
      or labels.min() < 0
      or labels.max() >= count
    ):
      raise InputError(
        f'labels are {value}, expected a list of classes between 0 and '
        f'{count - 1}, one for each image.'
      )
    return labels.astype(np.int32)

  def _number(self, word: str) -> int:
    match = find_classes(word, self.denoiser.num_classes, self.classes)
    if len(match) > 1:
      raise InputError(f'label {word!r} names {len(match)} classes, not one.')
    return match[0]


def load(
  place: epath.PathLike,
  *,
  weights: str = 'ema',
  step: int | None = None,
  autoencoder: str | None = None,
  mesh: Mesh | None = None,
) -> Pipeline:
  """Reads a network and its settings for sampling.

  Args:
    place: Workdir of a run, or folder of weights from `main.py convert`.
    weights: Weights of a run, 'ema' or 'raw'; a folder has one set.
    step: Step of a run's checkpoint; None for the newest.
    autoencoder: Decoder of the latents as NAME:FILE[,FILE...], such as
      'sd_vae:vae.safetensors'; None for the stored decoder, or if latents
      are images.
    mesh: Devices; None for all devices.

  Raises:
    InputError: if there is no network, or the autoencoder does not match it.
  """
  place = epath.Path(place).expanduser()
  if weights.startswith('ema:'):
    raise InputError(
      f'weights is {weights!r}; averages by width are read from a folder: '
      f'python main.py convert --from={place} --to=FOLDER --weights={weights}.'
    )
  mesh = make_mesh(MeshConfig()) if mesh is None else mesh
  network = open_network(place)
  if not network.is_run and (weights != 'ema' or step is not None):
    raise InputError(
      f'{place} is a folder of weights, which holds one set; weights and '
      'step are for runs.'
    )
  config, path, sampling = network.config, network.path, network.sampling
  decoder = read_decoder(autoencoder, config.channels, network.latents, mesh)
  sampler = Sampler(
    backbone.bind(config, network.load(mesh, weights, step)),
    sampling,
    path_named(path),
    config.latent_shape,
    mesh,
    decoder,
  )
  return Pipeline(sampler, network.latents.classes)
