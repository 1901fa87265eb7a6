"""Generates pseudorandom Inception weights for the golden test."""

import hashlib

import numpy as np
import reference

RULES = {
  '0.4*(r-0.5)': lambda r: 0.4 * (r - 0.5),
  '0.5+r': lambda r: 0.5 + r,
  '0.8+0.4r': lambda r: 0.8 + 0.4 * r,
  'r-0.5': lambda r: r - 0.5,
  '(2r-1)*0.05': lambda r: (2 * r - 1) * 0.05,
  '(2r-1)*sqrt(6/(I*kh*kw))': lambda r: (
    (2 * r - 1) * np.sqrt(6 / np.prod(r.shape[1:]))
  ),
}


def tensors():
  recipe = reference.read('inception/weights_recipe.json')
  found, digest = {}, hashlib.sha256()
  known = sorted(recipe['tensors'].items(), key=lambda item: item[1]['index'])
  for name, tensor in known:
    random = np.random.RandomState(recipe['seed'] + tensor['index'])
    r = random.random_sample(int(np.prod(tensor['shape'])))
    value = RULES[tensor['rule']](r.reshape(tensor['shape']))
    found[name] = value.astype(np.float32)
    digest.update(found[name].astype('<f4').tobytes())
  expected = recipe['sha256_all_tensors_concatenated_in_index_order']
  assert digest.hexdigest() == expected
  return found
