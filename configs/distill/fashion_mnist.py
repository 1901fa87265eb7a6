"""Students of the teacher in configs/fashion_mnist.py, for a CPU.

  python main.py distill --config=configs/distill/fashion_mnist.py:hybrid,4 \
    --teacher=runs/fashion --workdir=runs/fashion_hybrid4
  python main.py sample --workdir=runs/fashion_hybrid4

The argument is METHOD,STEPS. configs/distill/__init__.py lists the methods.
"""

import ml_collections

from configs import distill, fashion_mnist


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """Returns the config of the student METHOD,STEPS."""
  method, steps = distill.parse(argument)
  config = fashion_mnist.get_config()
  # Terms with separate normalizers need a smaller alpha.
  decoupled = method in ('full', 'constrained', 'hybrid')
  guidance = 'cfg:1.1' if decoupled else 'cfg:1.5'
  distill.configure(config, method, steps, guidance=guidance)
  distill.shorten(config, method)
  return config
