"""A TFDS builder of scikit-learn's handwritten digits, the default data.

The 1,797 images are gray, 8x8. Values 0 to 16 are scaled to 0 to 255. TFDS
writes ArrayRecord without TensorFlow, so digits are read like other data sets.
"""

import numpy as np
import tensorflow_datasets as tfds

_HELD_OUT = 500


class Digits(tfds.core.GeneratorBasedBuilder):
  """A fixed random split of the digits into 1,297 `train` and 500 `test`."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    # The file is sorted by writer: unshuffled splits would differ in writers.
    order = np.random.default_rng(0).permutation(1797)
    return {
      'train': self._generate_examples(order[:-_HELD_OUT]),
      'test': self._generate_examples(order[-_HELD_OUT:]),
    }

  def _generate_examples(self, indices):
    # Importing scikit-learn takes seconds, and most commands need no digits.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i in map(int, indices):
      image = np.round(images[i].reshape(8, 8, 1) * (255 / 16))
      yield i, {'image': image.astype(np.uint8), 'label': int(labels[i])}
