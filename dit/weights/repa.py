"""REPA's published files, read as a plain SiT.

REPA (arXiv 2410.06940, sihyun-yu/REPA) trains a SiT with an additional loss
that projects hidden states onto the features of an image encoder. Sampling
omits the projectors. Time 0 is the data, as in our code but not in SiT's code.
"""

from collections.abc import Mapping

import numpy as np
from absl import logging

PROJECTORS = 'projectors.'
_LATER = 'decoder_blocks.'


def without_projectors(
  tensors: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the tensors of the SiT, and logs the omitted tensors.

  In REPA's older files, the blocks after the projectors are `decoder_blocks`,
  counted from 0.
  """
  names = [name for name in tensors if name.startswith(PROJECTORS)]
  if names:
    logging.info(
      "Skipped REPA's projectors, which only training uses (%d tensors): %s.",
      len(names),
      ', '.join(names),
    )
  count = len({n.split('.')[1] for n in tensors if n.startswith('blocks.')})

  def rename(name: str) -> str:
    if not name.startswith(_LATER):
      return name
    number, _, rest = name.removeprefix(_LATER).partition('.')
    # A name without a number is rejected later as unknown.
    return f'blocks.{count + int(number)}.{rest}' if number.isdigit() else name

  return {
    rename(name): tensor
    for name, tensor in tensors.items()
    if not name.startswith(PROJECTORS)
  }
