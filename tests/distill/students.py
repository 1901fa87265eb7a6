"""Helpers that make a small teacher and distillations of the teacher."""

import dataclasses

from distill.config import DistillConfig
from distill.objective import Distillation
from dit.config import DiTConfig
from dit.path import path_named
from sample.registry import make_solver
from train import config_file

TEACHER = DiTConfig(size=4, channels=2, num_classes=3, patch=2, depth=3,
                    width=16, num_heads=2, taps=(1,))  # fmt: skip
TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)


def make_distillation(
  times=TIMES, solver='renoise', batch_size=8, teacher=TEACHER, measured=(),
  **given,
):  # fmt: skip
  config = config_file.load_config('configs/distill/base.py').distill.to_dict()
  path = path_named('linear')
  return Distillation(
    config=DistillConfig(**{**config, 'method': 'dmd', **given}),
    student=dataclasses.replace(teacher, taps=()),
    teacher=teacher,
    path=path,
    solver=make_solver(solver, path),
    times=times,
    batch_size=batch_size,
    moments=measured,
  )
