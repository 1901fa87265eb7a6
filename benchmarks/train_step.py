"""The train step of the demo against a PyTorch transformer of its shape.

  python -m benchmarks.train_step

Times whole steps (forward, backward, clipping, AdamW, EMA) on fixed batches,
float32, ours and PyTorch's in turns so that both see the same machine, and
prints medians and their ratio. Without torch (requirements-torch.txt) only our
own figure is printed. The PyTorch network is eager, with its fused attention.
"""

import argparse
import importlib.util
import json
import statistics
import time

import jax
import numpy as np

from dit import model
from dit.sharding import make_mesh
from train import settings
from train import state as state_lib
from train.experiment import build
from train.optimizer import make_optimizer, make_schedule
from train.step import make_train_step


def jax_step(experiment, batch):
  """Compiles our step; returns a function that runs one, and the seconds."""
  optimizer = make_optimizer(
    experiment.optimizer,
    make_schedule(
      experiment.optimizer,
      batch_size=experiment.train.batch_size,
      total_images=experiment.train.images,
    ),
  )
  mesh = make_mesh(experiment.mesh)
  abstract = state_lib.abstract(experiment.model, optimizer, mesh)
  state = state_lib.init(experiment.model, optimizer, mesh, 0)
  step = make_train_step(
    experiment.model, experiment.objective, optimizer, experiment.ema, abstract
  )
  key = jax.random.key(0)
  start = time.perf_counter()
  compiled = step.lower(state, batch, key).compile()
  seconds = time.perf_counter() - start

  def run():
    nonlocal state
    state, metrics = compiled(state, batch, key)
    return float(metrics['loss'])

  return run, seconds


def torch_step(experiment, batch):
  """The same network, loss and optimiser in PyTorch."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  config = experiment.model
  width, heads = config.width, config.num_heads
  features = config.patch**2 * config.channels

  def modulate(h, shift, scale):
    return h * (1 + scale[:, None]) + shift[:, None]

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
      self.qkv = nn.Linear(width, 3 * width)
      self.proj = nn.Linear(width, width)
      self.fc1 = nn.Linear(width, int(width * config.mlp_ratio))
      self.fc2 = nn.Linear(int(width * config.mlp_ratio), width)
      self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h, c):
      m = self.modulation(F.silu(c)).chunk(6, dim=1)
      b, n, d = h.shape
      q, k, v = (
        self.qkv(modulate(self.norm(h), m[0], m[1]))
        .reshape(b, n, 3, heads, d // heads)
        .permute(2, 0, 3, 1, 4)
      )
      a = F.scaled_dot_product_attention(q, k, v)
      h = h + m[2][:, None] * self.proj(a.transpose(1, 2).reshape(b, n, d))
      g = F.gelu(
        self.fc1(modulate(self.norm(h), m[3], m[4])), approximate='tanh'
      )
      return h + m[5][:, None] * self.fc2(g)

  class Head(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
      self.modulation = nn.Linear(width, 2 * width)
      self.proj = nn.Linear(width, features)

    def forward(self, h, c):
      shift, scale = self.modulation(F.silu(c)).chunk(2, dim=1)
      return self.proj(modulate(self.norm(h), shift, scale))

  class Network(nn.Module):
    def __init__(self):
      super().__init__()
      self.embed = nn.Linear(features, width)
      self.position = nn.Parameter(
        torch.zeros(1, config.num_tokens, width), requires_grad=False
      )
      self.time = nn.Sequential(
        nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)
      )
      self.label = nn.Embedding(config.num_classes + 1, width)
      self.blocks = nn.ModuleList(Block() for _ in range(config.depth))
      self.head, self.taps = Head(), nn.ModuleList(Head() for _ in config.taps)

    def forward(self, tokens, t, label):
      h = self.embed(tokens) + self.position
      angles = t[:, None] * torch.exp(
        -np.log(1e4) * torch.arange(128, dtype=torch.float32) / 128
      )
      c = self.time(torch.cat([angles.cos(), angles.sin()], 1))
      c = c + self.label(label)
      outputs = []
      for number, block in enumerate(self.blocks, 1):
        h = block(h, c)
        if number in config.taps:
          outputs.append(self.taps[config.taps.index(number)](h, c))
      return [self.head(h, c), *outputs]

  torch.manual_seed(0)
  network = Network()
  ours = sum(leaf.size for leaf in jax.tree.leaves(model.shapes(config)))
  assert sum(p.numel() for p in network.parameters()) == ours
  average = {k: v.clone() for k, v in network.state_dict().items()}
  optimizer = torch.optim.AdamW(
    [p for p in network.parameters() if p.requires_grad],
    lr=experiment.optimizer.lr,
    betas=(experiment.optimizer.b1, experiment.optimizer.b2),
    weight_decay=0,
  )
  side = config.size // config.patch
  x0 = torch.tensor(np.asarray(batch['image'])).float() / 127.5 - 1
  x0 = x0.reshape(len(x0), side, config.patch, side, config.patch, -1)
  x0 = x0.permute(0, 1, 3, 2, 4, 5).reshape(len(x0), -1, features)
  label = torch.tensor(np.asarray(batch['label'])).long()
  weights = experiment.objective.weights(len(config.taps))

  def run():
    noise = torch.randn_like(x0)
    t = torch.sigmoid(torch.randn(len(x0)))
    dropped = torch.rand(len(x0)) < experiment.objective.label_dropout
    y = torch.where(dropped, config.num_classes, label)
    x = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
    final, *inner = network(x, t, y)
    target = noise - x0
    loss = F.mse_loss(final, target)
    for weight, prediction in zip(weights, inner, strict=True):
      loss = loss + weight * F.mse_loss(prediction, target)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), experiment.optimizer.clip)
    optimizer.step()
    with torch.no_grad():
      for name, value in network.state_dict().items():
        average[name].lerp_(value, 1 - experiment.ema.decay)
    return loss.item()

  return run


def timed(run) -> float:
  """Milliseconds of one call."""
  start = time.perf_counter()
  run()
  return 1e3 * (time.perf_counter() - start)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/digits.py')
  parser.add_argument('--steps', type=int, default=60)
  args, extra = parser.parse_known_args()
  overrides = [word.removeprefix('--config.') for word in extra]
  config = settings.override(settings.load_config(args.config), overrides)
  experiment = build(config.to_dict())
  rng = np.random.default_rng(0)
  shape = (experiment.train.batch_size, *experiment.model.latent_shape)
  batch = {
    'image': rng.integers(0, 256, shape).astype(np.uint8),
    'label': rng.integers(0, experiment.model.num_classes, shape[0]).astype(
      np.int32
    ),
  }
  ours, compile_seconds = jax_step(experiment, batch)
  runs = {'ours': ours}
  if importlib.util.find_spec('torch'):
    runs['torch'] = torch_step(experiment, batch)
  for run in runs.values():
    for _ in range(3):
      run()
  # One by one: a pool of threads that has just worked spins for a while.
  times = {name: [] for name in runs}
  for _ in range(args.steps // 10):
    for name, run in runs.items():
      run()
      times[name] += [timed(run) for _ in range(10)]
  medians = {name: statistics.median(values) for name, values in times.items()}
  result = {
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'compile_s': round(compile_seconds, 1),
    **{f'{name}_ms': round(value, 1) for name, value in medians.items()},
  }
  if 'torch' in medians:
    result['ratio'] = round(medians['ours'] / medians['torch'], 3)
  print(json.dumps(result))
