"""The lines of Python in docs/ run as they stand, on small networks."""

import pathlib
import re

import numpy as np
import reference
from PIL import Image

from dit import autoencoder, convert, weights

ROOT = pathlib.Path(__file__).parents[1]


def test_from_a_folder_to_pictures(tmp_path, monkeypatch):
  text = (ROOT / 'docs' / 'checkpoints.md').read_text()
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  config, params = convert.from_published(
    reference.read('ig_sit/model.safetensors'),
    family='ig_sit',
    num_heads=4,
    taps=(2,),
  )
  monkeypatch.chdir(tmp_path)
  weights.save_folder('sit-xl-ig', config, params, info={})
  # The golden autoencoder, of few channels, has smaller groups.
  tensors = {}
  for half in ('encoder', 'decoder'):
    tensors |= reference.read(f'sd_vae/{half}.safetensors')
  weights.save_tensors('sd-vae-ft-ema.safetensors', tensors)
  load = autoencoder.load
  monkeypatch.setattr(
    autoencoder, 'load', lambda *args: load(*args, norm_groups=8)
  )
  code = code.replace('make_grid(250', 'make_grid(4')  # less to wait for
  exec(compile(code, 'docs/checkpoints.md', 'exec'), {})
  with Image.open('samples.png') as image:
    picture = np.asarray(image)
  assert picture.shape[0] > 2 * 64 and picture.shape[-1] == 3
  assert picture.std() > 10
