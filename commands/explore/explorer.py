"""Samples the images of the page of `explore`; this module needs no Gradio.

The compiled guidance contains every method at all times, with scale 1 for a
method that is off. Scales and intervals are arguments of the compiled sampler,
so moving a slider compiles nothing. A guidance text, a solver, a number of
steps and a larger batch each compile once.
"""

import dataclasses
import functools
import shlex
import threading
import time
from typing import Any

import numpy as np

from commands.explore.settings import Dial, Settings
from commands.sample_job import SampleJob, SampleRequest
from core import program
from core.errors import InputError
from guidance import Guidance, parse
from guidance.parse import with_guide
from sample.labels import class_name
from sample.pipeline import Pipeline
from sample.registry import SOLVERS
from sample.trajectory import Film

METHODS = ('ig', 'cfg', 's2', 'auto')  # methods with sliders
_FRAMES = 8  # number of frames of a trajectory
_SCALE = 1.5  # scale of the first method at the start
_STEPS = 50  # largest number of steps at the start
_IMAGES = 8  # largest number of images at the start


@dataclasses.dataclass(frozen=True, repr=False)
class Picture:
  """Images of one state of the page.

  Attributes:
    images: Guided images (n, H, W, C) uint8.
    base: Unguided images from the same noise.
    nfe: Network evaluations per guided image.
    seconds: Time in which the guided images were sampled.
  """

  images: np.ndarray
  base: np.ndarray
  nfe: float | None
  seconds: float


class Explorer:
  """A network that samples for the page.

  Attributes:
    methods: Methods of `METHODS` that the network supports.
    solvers: Solvers that the network supports, the default one first.
    start: Settings at the start.
  """

  def __init__(self, request: SampleRequest) -> None:
    """Checks the settings and reads the weights."""
    job = SampleJob(request)
    job.check_weights()
    self.request = request
    self.methods = tuple(m for m in METHODS if job.serves(f'{m}:1.5'))
    decoder = job.decoder
    denoiser, self._guide, _ = job.restore()
    self._pipeline = Pipeline(
      job.make_sampler(denoiser, decoder), job.latents.classes
    )
    default = self._pipeline.sampling.solver
    names = dict.fromkeys((default, *SOLVERS))
    self.solvers = [name for name in names if self._serves(name)]
    # A student learned from a guided teacher, so it starts without guidance.
    first = 1.0 if request.source.is_student else _SCALE
    self.start = Settings(
      tuple(Dial(m, 1.0 if k else first) for k, m in enumerate(self.methods)),
      '',
      min(len(self._pipeline.sampler.grid) - 1, _STEPS),
      self.solvers[0],
      request.seed,
      tuple(range(len(self.names)))[:_IMAGES],
    )
    self._lock = threading.Lock()  # compiles once, if two pages are open
    # Dials do not change the unguided images.
    self._base = functools.lru_cache(maxsize=1)(self._draw_base)

  @property
  def title(self) -> str:
    """Name of the run or folder."""
    return str(self.request.source.place)

  @functools.cached_property
  def names(self) -> list[str]:
    """Short name of each class."""
    count = self._pipeline.denoiser.num_classes
    return [class_name(label, self._pipeline.classes) for label in range(count)]

  def draw(self, settings: Settings) -> Picture:
    """Samples images; raises InputError if a setting is invalid."""
    with self._lock:
      base = self._base(dataclasses.replace(settings, dials=(), text=''))
      begin = time.perf_counter()
      images = self._images(settings)
      seconds = time.perf_counter() - begin
      nfe = self._pipeline.nfe(
        self._parse(settings.program),
        seed=settings.seed,
        **self._sampling(settings),
      )
    return Picture(images, base, nfe, seconds)

  def film(self, settings: Settings) -> Film:
    """Records the trajectory of the first image."""
    return self._pipeline.film(
      settings.classes[:1],
      self._parse(settings.program),
      seed=settings.seed,
      frames=_FRAMES,
      **self._sampling(settings),
    )

  def command(self, settings: Settings) -> str:
    """Returns the command that samples the same images into PNG files."""
    request, source = self.request, self.request.source
    sampling = self._sampling(settings)
    guide = None
    if self._parse(settings.guidance).wants_guide:
      guide = request.guide
    words = [
      *program.command(),
      'sample',
      f'--{"workdir" if source.is_run else "folder"}={source.place}',
      f'--guidance={settings.guidance}',
      f'--labels={",".join(map(str, settings.classes))}',
      f'--num={len(settings.classes)}',
      f'--seed={settings.seed}',
      # The page's settings follow, since the last assignment wins.
      *(f'--config.{assignment}' for assignment in request.overrides),
      *(f'--config.sample.{key}={value}' for key, value in sampling.items()),
    ]
    for flag, value in (
      ('weights', source.weights),
      ('step', source.step),
      ('guide', guide and guide.place),
      ('guide_step', guide and guide.step),
      ('autoencoder', request.autoencoder),
    ):
      if value is not None:
        words.append(f'--{flag}={value}')
    out = request.out or f'{request.home or source.place}/explored'
    return shlex.join([*words, '--format=png', f'--out={out}', '--overwrite'])

  def _serves(self, solver: str) -> bool:
    """Returns whether all methods work with a solver, which has fixed steps."""
    sampler = self._pipeline.sampler
    config = dataclasses.replace(sampler.config, solver=solver)
    sampler = dataclasses.replace(sampler, config=config)
    guidance = ','.join(f'{method}:1' for method in self.methods)
    try:
      sampler.check(self._parse(guidance))
    except InputError:
      return False
    return not sampler.solver.adaptive

  def _parse(self, text: str) -> Guidance:
    return with_guide(parse(text), self._guide)

  def _sampling(self, settings: Settings) -> dict[str, Any]:
    """Returns the fields of `SampleConfig` that the page sets."""
    # A respaced schedule ignores the field `steps`.
    respaced = bool(self._pipeline.sampling.respacing)
    steps = {'respacing': str(settings.steps)} if respaced else {}
    return {'solver': settings.solver, **(steps or {'steps': settings.steps})}

  def _images(self, settings: Settings) -> np.ndarray:
    return self._pipeline(
      settings.classes,
      self._parse(settings.program),
      seed=settings.seed,
      **self._sampling(settings),
    )

  def _draw_base(self, settings: Settings) -> np.ndarray:
    """Samples unguided images, with the program of all dials."""
    dials = tuple(map(Dial, self.methods))
    return self._images(dataclasses.replace(settings, dials=dials))
