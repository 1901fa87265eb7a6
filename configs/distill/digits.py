"""Students of the digits' teacher, trained in minutes on a CPU.

  python main.py distill --config=configs/distill/digits.py:hybrid,4 \
    --teacher=runs/digits --workdir=runs/hybrid4
  python main.py sample --workdir=runs/hybrid4

  python main.py distill --config=configs/distill/digits.py:flash,4 \
    --teacher=runs/digits --workdir=runs/flash4
  python main.py sample --folder=runs/flash4/student

The argument is METHOD,STEPS. configs/distill/__init__.py lists the methods, and
docs/distillation.md lists the results.
"""

import ml_collections

from configs import digits, distill


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """Returns the config of the student METHOD,STEPS."""
  return distill.configure_short(
    digits.get_config(), argument, guidance='cfg:1.2', decoupled='cfg:1.05'
  )
