"""A plain PyTorch transformer for comparisons in the benchmarks.

It has the same parameters, optimizer and EMA as our networks, and a loss of the
same cost. It runs eagerly, with PyTorch's modules and fused attention. It
supports only plain SiT blocks: LayerNorm, GELU, no rotary positions.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dit import model
from dit.config import DiTConfig
from train.experiment import Experiment


def modulate(h, shift, scale):
  """Modulates tokens (B, N, D) by shift and scale (B, D)."""
  return h * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
  """An adaLN-zero block."""

  def __init__(self, config: DiTConfig) -> None:
    super().__init__()
    width = config.width
    self.heads = config.num_heads
    self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)
    self.fc1 = nn.Linear(width, config.hidden)
    self.fc2 = nn.Linear(config.hidden, width)
    self.modulation = nn.Linear(width, 6 * width)

  def forward(self, h, c):
    """Maps tokens (B, N, D) and a condition (B, D) to (B, N, D)."""
    m = self.modulation(F.silu(c)).chunk(6, dim=1)
    b, n, d = h.shape
    q, k, v = (
      self.qkv(modulate(self.norm(h), m[0], m[1]))
      .reshape(b, n, 3, self.heads, d // self.heads)
      .permute(2, 0, 3, 1, 4)
    )
    a = F.scaled_dot_product_attention(q, k, v)
    h = h + m[2][:, None] * self.proj(a.transpose(1, 2).reshape(b, n, d))
    g = F.gelu(self.fc1(modulate(self.norm(h), m[3], m[4])), approximate='tanh')
    return h + m[5][:, None] * self.fc2(g)


class Head(nn.Module):
  """The output head, or the intermediate head that follows a tap."""

  def __init__(self, config: DiTConfig) -> None:
    super().__init__()
    width, outputs = config.width, config.patch**2 * config.channels
    self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    self.modulation = nn.Linear(width, 2 * width)
    self.proj = nn.Linear(width, outputs)

  def forward(self, h, c):
    """Maps tokens (B, N, D) and a condition (B, D) to (B, N, outputs)."""
    shift, scale = self.modulation(F.silu(c)).chunk(2, dim=1)
    return self.proj(modulate(self.norm(h), shift, scale))


class Network(nn.Module):
  """The network, which returns its output and the intermediate predictions."""

  def __init__(self, config: DiTConfig) -> None:
    super().__init__()
    width = config.width
    self.config = config
    self.embed = nn.Linear(config.patch**2 * config.channels, width)
    self.position = nn.Parameter(
      torch.zeros(1, config.num_tokens, width), requires_grad=False
    )
    self.time = nn.Sequential(
      nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)
    )
    self.label = nn.Embedding(config.num_classes + 1, width)
    self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
    self.head = Head(config)
    self.taps = nn.ModuleList(Head(config) for _ in config.taps)

  def forward(self, tokens, t, label, tapped=True):
    """Maps tokens (B, N, patch^2 * C), t (B,), label (B,) to predictions."""
    config = self.config
    h = self.embed(tokens) + self.position
    angles = t[:, None] * torch.exp(
      -math.log(1e4) * torch.arange(128, device=t.device) / 128
    )
    c = self.time(torch.cat([angles.cos(), angles.sin()], 1).to(h.dtype))
    c = c + self.label(label)
    outputs = []
    for number, block in enumerate(self.blocks, 1):
      h = block(h, c)
      if tapped and number in config.taps:
        outputs.append(self.taps[config.taps.index(number)](h, c))
    return [self.head(h, c), *outputs]


def network_of(config: DiTConfig) -> Network:
  """Returns the network; raises ValueError if our parameter count differs."""
  torch.manual_seed(0)
  network = Network(config)
  expected = sum(leaf.size for leaf in jax.tree.leaves(model.shapes(config)))
  count = sum(p.numel() for p in network.parameters())
  if count != expected:
    raise ValueError(
      f'the PyTorch network of plain SiT blocks has {count:,} parameters, '
      f'this one {expected:,}; choose configs/sit.py or configs/digits.py.'
    )
  return network


def train_step(
  experiment: Experiment, batch: dict[str, Any]
) -> Callable[[], float]:
  """Returns a training step on a fixed batch; the step returns the loss."""
  config, settings = experiment.model, experiment.optimizer
  network = network_of(config)
  average = {k: v.clone() for k, v in network.state_dict().items()}
  parameters = [p for p in network.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(
    parameters,
    lr=settings.lr,
    betas=(settings.b1, settings.b2),
    weight_decay=settings.weight_decay,
  )
  weights = experiment.objective.weights(len(config.taps))
  label = torch.tensor(np.asarray(batch['label'])).long()
  if 'image' in batch:
    mean = _tokens(config, np.asarray(batch['image']) / 127.5 - 1)
    std = torch.zeros_like(mean)
  else:
    moments = np.asarray(batch['moments'], np.float32)
    mean, std = (_tokens(config, x) for x in np.split(moments, 2, axis=-1))

  def run():
    x0 = mean + std * torch.randn_like(mean)
    noise = torch.randn_like(x0)
    t = torch.sigmoid(torch.randn(len(x0)))
    mask = torch.rand(len(x0)) < experiment.objective.label_dropout
    y = torch.where(mask, config.num_classes, label)
    x = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
    final, *inner = network(x, t, y)
    target = noise - x0
    loss = F.mse_loss(final, target)
    for weight, prediction in zip(weights, inner, strict=True):
      loss = loss + weight * F.mse_loss(prediction, target)
    optimizer.zero_grad()
    loss.backward()
    if settings.clip:
      nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimizer.step()
    with torch.no_grad():
      for name, value in network.state_dict().items():
        average[name].lerp_(value, 1 - experiment.ema.decay)
    return loss.item()

  return run


def sampler(
  config: DiTConfig, method: str, scale: float, steps: int, batch_size: int
) -> Callable[[], Any]:
  """Returns an Euler sampler; `method` is 'none', 'ig' or 'cfg'."""
  network = network_of(config).eval()
  features = config.patch**2 * config.channels
  label = torch.arange(batch_size) % config.num_classes
  null = torch.full_like(label, config.num_classes)

  def velocity(x, t):
    if method == 'cfg':
      inputs = (torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, null]))
      strong, weak = network(*inputs, tapped=False)[0].chunk(2)
    else:
      strong, *inner = network(x, t, label, tapped=method == 'ig')
      if method == 'none':
        return strong
      weak = inner[0]
    return weak + scale * (strong - weak)

  def run():
    with torch.no_grad():
      x = torch.randn(batch_size, config.num_tokens, features)
      for n in range(steps):
        x = x - velocity(x, torch.full((batch_size,), 1 - n / steps)) / steps
      return x

  return run


def _tokens(config: DiTConfig, x: np.ndarray) -> torch.Tensor:
  """Maps images (B, H, W, C) to tokens (B, N, patch * patch * C)."""
  side, patch = config.size // config.patch, config.patch
  x = torch.tensor(x, dtype=torch.float32)
  x = x.reshape(len(x), side, patch, side, patch, -1)
  return x.permute(0, 1, 3, 2, 4, 5).reshape(len(x), side * side, -1)
