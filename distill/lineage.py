"""Checks and describes a student's teacher, and reuses a fake denoiser."""

import os
import pathlib
from typing import Any

from etils import epath

from core.errors import InputError
from distill import lora
from distill.config import DistillConfig, StudentExperiment, build_student
from dit.weights.files import HUB, WEB
from train.runs import Source
from train.workdir import TEACHER, load_about, load_config


def fake_of(config: DistillConfig) -> dict[str, Any]:
  """Returns the entry of teacher.json for a LoRA fake denoiser; else {}."""
  return {'lora': lora.KIND} if config.fakes and config.fake == 'lora' else {}


def check_known(workdir: epath.PathLike, about: dict[str, Any]) -> None:
  """Checks that a resumed run still has the same teacher.

  Args:
    workdir: Folder of the run.
    about: New contents of the run's teacher.json.

  Raises:
    InputError: The run started with another teacher or kind of LoRA.
  """
  notes = load_about(workdir, TEACHER)
  if not notes:
    return
  if notes.get('sha256') != about['sha256']:
    raise InputError(
      f'{workdir} is a student of {notes.get("place")} with other weights than '
      f'those of {about["place"]}; give the same teacher, or a new workdir.'
    )
  is_older = 'lora' in about and notes.get('lora') != about['lora']
  if is_older and load_config(workdir).get('distill', {}).get('fake') == 'lora':
    raise InputError(
      f'{workdir} was begun by an older version, in which distill.fake=lora '
      'changed other parts of the network; distill again in a new workdir (its '
      'student can still be sampled).'
    )


def continues_fake(experiment: StudentExperiment, start: Source) -> bool:
  """Returns whether a student can reuse the fake denoiser of run `start`."""

  def kind(e):
    config = e.distill
    blocks = config.adversarial and config.discriminator_blocks
    return config.fake, config.lora_rank, blocks, e.optimizer.name

  if not start.is_student:
    return False
  config = experiment.distill
  source = build_student(load_config(start.place))
  if not (config.fakes and source.distill.fakes):
    return False
  changes = load_about(start.place, TEACHER).get('lora')
  is_same = changes == fake_of(config).get('lora')
  return is_same and kind(experiment) == kind(source)


def about_student(
  run: epath.PathLike, method: str | None = None
) -> dict[str, Any]:
  """Returns the entry 'student' for config.json of a folder of weights.

  Args:
    run: Workdir of a student or of a stage.
    method: Name of the recipe; None for the method of the run.
  """
  config = build_student(load_config(run)).distill
  teacher = load_about(run, TEACHER)
  source = str(teacher.get('source', ''))
  if not source.startswith((HUB, WEB)):  # others cannot use a local path
    place = os.path.abspath(teacher.get('place', config.teacher))
    source = pathlib.PurePath(place).name
  return {
    'teacher': source,
    'teacher_sha256': teacher.get('sha256'),
    'method': method or _method_of(config),
    'guidance': config.guidance,
  }


def _method_of(config: DistillConfig) -> str:
  """Returns the name of a method."""
  if config.method == 'teacher_trajectory':
    return 'regression on the trajectory of the teacher'
  if config.query != 'renoise':
    name = 'DMD with timestep sharing'
  elif config.augmented and config.schedule != 'shared':
    name = f'Decoupled DMD ({config.schedule} schedule)'
  else:
    name = 'DMD'
  if not config.matches and config.regularizer == 'dm':
    name += ' without its DM term'
  elif not config.matches:
    name += f', regularizer {config.regularizer}'
  return name + (', with a discriminator' if config.adversarial else '')
