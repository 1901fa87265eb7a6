"""Students of the teacher in configs/fashion_mnist.py, for a CPU.

  python main.py distill --config=configs/distill/fashion_mnist.py:hybrid,4 \
    --teacher=runs/fashion --workdir=runs/fashion_hybrid4
  python main.py sample --workdir=runs/fashion_hybrid4

The argument is METHOD,STEPS. configs/distill/__init__.py lists the methods. We
have not trained these students yet.
"""

import ml_collections

from configs import distill, fashion_mnist


def get_config(argument: str = 'hybrid,4') -> ml_collections.ConfigDict:
  """Returns the config of the student METHOD,STEPS."""
  return distill.configure_short(
    fashion_mnist.get_config(),
    argument,
    guidance='cfg:1.5',
    decoupled='cfg:1.1',
  )
