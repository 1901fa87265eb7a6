"""Pictures of a comparison: images of every method, and curves over scales."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from evaluate.metrics import Estimate
from sample import pictures

# Columns of the sheet of images, and its rows for each block.
_COLUMNS, _SHEET_ROWS = 20, 3
_SPACES = ('features', 'pixels')
Distances = Mapping[str, Estimate]


def pick(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns images for the sheet; column j holds class j mod num_classes."""
  order = np.argsort(labels, kind='stable')
  by_class = [order[labels[order] == c] for c in range(num_classes)]
  return images[
    [
      by_class[j % num_classes][row + _SHEET_ROWS * (j // num_classes)]
      for row in range(_SHEET_ROWS)
      for j in range(_COLUMNS)
      if row + _SHEET_ROWS * (j // num_classes) < len(by_class[j % num_classes])
    ]
  ]


def sheet(blocks: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
  """Returns the picture of real and drawn images, named on the left."""
  scale = max(1, 48 // blocks[0][1].shape[1])
  return pictures.sheet(blocks, _COLUMNS, scale=scale)


def curves(
  points: Sequence[tuple[str, float, Distances]], floor: Distances | None
) -> Figure:
  """Distance against scale, in features and in pixels."""
  figure = Figure(figsize=(10, 4.2), layout='constrained')
  for axes, space in zip(figure.subplots(1, 2), _SPACES, strict=True):
    for name in dict.fromkeys(name for name, _, _ in points):
      mine = [(scale, s) for n, scale, s in points if n == name]
      axes.errorbar(
        [scale for scale, _ in mine],
        [s[space].value for _, s in mine],
        [s[space].error for _, s in mine],
        label=name.upper(),
        marker='o',
        capsize=3,
      )
    if floor is not None:
      axes.axhline(
        floor[space].value,
        color='grey',
        linestyle='--',
        label='real, held out',
      )
    axes.set(
      xlabel='guidance scale (1 = off)', ylabel=f'Frechet distance, {space}'
    )
    axes.set_yscale('log')
    axes.grid(which='both', alpha=0.25)
  axes.legend()
  return figure
