"""From a checkpoint to images, in a notebook.

  from sample import load, tile

  pipeline = load('runs/digits')
  images = pipeline([3, 8] * 8, 'ig:1.5,cfg:1.2@0-0.7', steps=25)
  Image.fromarray(tile(images, columns=8).squeeze())

`load` reads a run, or a folder of weights that `main.py convert` made of a run
or of a published file. Images are those that `main.py sample` draws of the same
weights, labels and seed.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, check_choice, nearest
from core.files import read_json
from core.ranges import Range, Seed, check_value
from core.renamed_keys import upgrade
from dit import model
from dit.autoencoder import Autoencoder
from dit.config import DiTConfig, network_of
from dit.path import Path, path_named
from dit.sharding import MeshConfig, batch_parts, make_mesh, tree_shardings
from dit.types import Denoiser
from dit.weights import folder as folders
from dit.weights.checkpoint import WEIGHTS, restore_weights
from guidance import Guidance, parse
from guidance.parse import with_guide
from sample import generate
from sample.decoder import read_decoder
from sample.generate import SampleConfig
from sample.labels import find_classes, names_of
from sample.trajectory import Film, film

# By family of published files, what differs from the defaults of
# `SampleConfig`, which are those of ig_sit.
_LIGHTNING: dict[str, Any] = {
  'last_step_size': 0.0,
  'shift': 1 / 0.3,
  'scales_at': 'evaluation',
}
SAMPLING: dict[str, dict[str, Any]] = {
  'dit': {'solver': 'ddpm', 'respacing': '250'},
  'sit': {'solver': 'euler_maruyama:diffusion=sigma'},
  'lightningdit': {'solver': 'euler', 'steps': 249, **_LIGHTNING},
  'ig_lightningdit': {
    'solver': 'heun:final_step=heun',
    'steps': 124,
    **_LIGHTNING,
  },
}

Labels = str | Sequence[int | str] | np.ndarray
OF_MACHINE = 'batch_size'  # of the section `sample`: it changes no image
_MOST = 100_000  # of a number in the section `sample` of a folder


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A network and the settings to sample it with.

  Attributes:
    denoiser: the network, its parameters on the devices.
    sampling: settings of the sampler.
    path: the path of its velocity.
    shape: (H, W, C) of its latents.
    mesh: the devices.
    autoencoder: the decoder of the latents; None where they are images.
    classes: name of each class, in the order of the labels; () if not known.
  """

  denoiser: Denoiser
  sampling: SampleConfig
  path: Path
  shape: tuple[int, int, int]
  mesh: Mesh
  autoencoder: Autoencoder | None = None
  classes: tuple[str, ...] = ()

  def __call__(
    self,
    labels: Labels,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> np.ndarray:
    """Draws images.

    Args:
      labels: class of each image (n,), by number or by name, or text such as
        'bird,3'.
      guidance: guidance as text, such as 'ig:1.5,cfg:1.2@0-0.7', or as an
        object.
      seed: seed of all noise; image i depends on it and on i.
      guide: pipeline whose network is the weaker one of guidance auto.
      **sampling: fields of `SampleConfig` to change, such as steps=25.

    Returns:
      (n, H, W, C) uint8.

    Raises:
      InputError: for a request that cannot be drawn; the message says what can.
    """
    check_value('seed', seed, Seed)
    labels, config = self._checked(labels), self._config(sampling)
    # No larger than it need be: filling up a batch takes time, too.
    parts = batch_parts(self.mesh)
    batch_size = min(config.batch_size, -(-len(labels) // parts) * parts)
    drawn = generate.generate(
      self.denoiser,
      self._method(guidance, guide),
      labels,
      dataclasses.replace(config, batch_size=batch_size),
      path=self.path,
      shape=self.shape,
      mesh=self.mesh,
      seed=seed,
      autoencoder=self.autoencoder,
    )
    return drawn.images

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
    """What guidance changes along the way; see `sample.trajectory`."""
    check_value('seed', seed, Seed)
    check_value('frames', frames, Annotated[int, Range(1, 10_000)])
    return film(
      self.denoiser,
      self._method(guidance, guide),
      self._checked(labels),
      self._config(sampling),
      path=self.path,
      shape=self.shape,
      mesh=self.mesh,
      seed=seed,
      frames=frames,
      autoencoder=self.autoencoder,
    )

  def nfe(
    self,
    guidance: str | Guidance = 'none',
    *,
    seed: int = 0,
    guide: 'Pipeline | None' = None,
    **sampling: Any,
  ) -> float | None:
    """Network evaluations per image, in whole passes; None if they vary."""
    check_value('seed', seed, Seed)
    method, config = self._method(guidance, guide), self._config(sampling)
    generate.check(
      config, method, self.denoiser, self.mesh, self.path, self.shape
    )
    return generate.declared_nfe(self.denoiser, method, config, self.path, seed)

  def _config(self, changes: Mapping[str, Any]) -> SampleConfig:
    known = {f.name: type(f.default) for f in dataclasses.fields(SampleConfig)}
    for name, value in changes.items():
      if name not in known:
        raise InputError(
          f'unknown setting {name!r}; there are {", ".join(known)}.'
          + nearest(name, known)
        )
      kind = known[name]
      if type(value) is not kind and (kind, type(value)) != (float, int):
        raise InputError(
          f'{name} is {value!r}, expected a value of type {kind.__name__}.'
        )
    return dataclasses.replace(self.sampling, **changes)

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
      raise InputError('a guide is for guidance auto, which is not asked for.')
    theirs, ours = ((p.path, p.shape) for p in (guide, self))
    if theirs != ours:
      raise InputError(
        f'the guide has path and latents {theirs}, the network {ours}; they '
        'must be trained for the same task.'
      )
    return with_guide(guidance, guide.denoiser)

  def _checked(self, labels: Labels) -> np.ndarray:
    given, count = labels, self.denoiser.num_classes
    if isinstance(labels, str):
      labels = find_classes(labels, count, self.classes)
    elif isinstance(labels, list | tuple):
      labels = [self._number(k) if isinstance(k, str) else k for k in labels]
    try:
      labels = np.asarray(labels)
    except ValueError:  # rows of several lengths
      labels = np.zeros(0)
    if (
      labels.ndim != 1
      or not labels.size
      or labels.dtype.kind not in 'iu'
      or labels.min() < 0
      or labels.max() >= count
    ):
      raise InputError(
        f'labels are {given}, expected a list of classes between 0 and '
        f'{count - 1}, one for each image.'
      )
    return labels.astype(np.int32)

  def _number(self, word: str) -> int:
    found = find_classes(word, self.denoiser.num_classes, self.classes)
    if len(found) > 1:
      raise InputError(f'label {word!r} names {len(found)} classes, not one.')
    return found[0]


def load(
  place: epath.PathLike,
  *,
  weights: str = 'ema',
  step: int | None = None,
  autoencoder: str | None = None,
  mesh: Mesh | None = None,
) -> Pipeline:
  """Reads a network, and how it was sampled.

  Args:
    place: the workdir of a run, or a folder of weights made by `main.py
      convert`.
    weights: of a run, 'ema' or 'raw'; a folder holds one set.
    step: of a run's checkpoint; None for the newest.
    autoencoder: what makes images of its latents, as NAME:FILE[,FILE...] such
      as 'sd_vae:vae.safetensors'; None where latents are images.
    mesh: the devices; None for all of them.

  Returns:
    The network, ready to draw.

  Raises:
    InputError: if there is none, or the autoencoder does not fit.
  """
  place = epath.Path(place).expanduser()
  if weights.startswith('ema:'):
    raise InputError(
      f'weights is {weights!r}; averages by width are read of a folder: python '
      f'main.py convert --from={place} --to=FOLDER --weights={weights}.'
    )
  mesh = make_mesh(MeshConfig()) if mesh is None else mesh
  about = upgrade(read_json(place / 'config.json'))
  if 'format' in about:
    if weights != 'ema' or step is not None:
      raise InputError(
        f'{place} is a folder of weights, which holds one set; weights and '
        'step are for runs.'
      )
    config, info = folders.load_config(place)
    path, latents = path_of(config, info), info.get('latents', {})
    sampling = SampleConfig(**sampler_of(place, info))
  else:
    config, path, sampling = _of_run(place, about)
    file = place / 'latents.json'
    latents = read_json(file) if file.exists() else {}
  decoder = read_decoder(autoencoder, config.channels, latents, mesh)
  if 'format' in about:
    params = jax.device_put(
      folders.load_folder(place)[1], tree_shardings(model.shapes(config), mesh)
    )
  else:
    check_choice('weights', weights, WEIGHTS)
    params, _ = restore_weights(place, config, mesh, weights, step)
  return Pipeline(
    model.bind(config, params),
    sampling,
    path_named(path),
    config.latent_shape,
    mesh,
    decoder,
    names_of(latents),
  )


def sampler_of(
  folder: epath.PathLike, info: Mapping[str, Any]
) -> dict[str, Any]:
  """How a folder of weights is sampled: as its run was, or its family is.

  Args:
    folder: for messages.
    info: what its config.json says beside the network.

  Returns:
    Fields of `SampleConfig` that differ from its defaults.

  Raises:
    InputError: for what is no setting, of a file that someone wrote.
  """
  section = info.get('sample', {})
  where = f'{folder}/config.json'
  if not isinstance(section, dict):
    raise InputError(f'{where} has a "sample" that is no section.')
  fields = dataclasses.fields(SampleConfig)
  defaults = {f.name: f.default for f in fields if f.name != OF_MACHINE}
  for key, value in section.items():
    if key not in defaults:
      raise InputError(
        f'{where} has an unknown key {json.dumps(f"sample.{key}")}; is it of a '
        'newer version?' + nearest(key, defaults)
      )
    kind = type(defaults[key])
    fits = type(value) is kind or (kind, type(value)) == (float, int)
    # Steps of a stranger's file must not fill the memory; nan is no number.
    if not fits or (kind is not str and not abs(value) <= _MOST):
      raise InputError(
        f'{where} has sample.{key} = {json.dumps(value)[:100]}, expected '
        f'{kind.__name__}' + f' up to {_MOST}' * (kind is not str) + '.'
      )
  return {**SAMPLING.get(str(info.get('family')), {}), **section}


def path_of(config: DiTConfig, info: Mapping[str, Any]) -> str:
  """Name of the path that a folder's network was trained on."""
  usual = 'discrete' if config.convention == 'noise' else 'linear'
  return info.get('path', usual)


def _of_run(
  place: epath.Path, about: Mapping[str, Any]
) -> tuple[DiTConfig, str, SampleConfig]:
  """Network, path and sampler of a run."""
  try:
    dropout = about['objective']['label_dropout']
    network = network_of(about['model'], null_label=bool(dropout))
    return (
      DiTConfig(**_tuples(network)),
      about['objective']['path'],
      SampleConfig(**_tuples(about['sample'])),
    )
  except (KeyError, TypeError) as error:
    raise InputError(
      f'{place}/config.json is not that of a run, or of another version '
      f'({type(error).__name__}: {error}).'
    ) from error


def _tuples(section: Mapping[str, Any]) -> dict[str, Any]:
  """JSON's lists as tuples again."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
