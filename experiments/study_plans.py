"""Networks and table rows of the studies in docs/results.md.

A plan is a function from seeds to the rows of its table. Its second argument is
a function that tunes the scales of a method. Every network is trained with
configs/fashion_mnist.py and the changes listed here.
"""

import dataclasses
from collections.abc import Callable, Sequence

CONFIG = 'configs/fashion_mnist.py'
TUNING_SEED = 2  # seed of the network whose scales are swept
TUNING_IMAGES = 500  # number of images per point of a sweep

# Function from the name of a method to its tuned guidance.
Best = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Run:
  """A network to train.

  Attributes:
    name: Name of its folder in the folder of the study, {out}.
    commands: Words of each command of main.py that trains the network, with
      {out} and the folder of the data {data}.
    needs: Networks to train first.
    result: Path of the network in its folder: '' if the folder is a run.
  """

  name: str
  commands: tuple[tuple[str, ...], ...]
  needs: tuple['Run', ...] = ()
  result: str = ''


@dataclasses.dataclass(frozen=True)
class Row:
  """A measurement: images of one network with one guidance.

  Attributes:
    title: Title in the table; rows with the same title differ in their seed.
    run: Network to sample.
    guidance: Guidance in the syntax of --guidance.
    seed: Seed of labels and noise.
    changes: Assignments to config keys of sampling.
  """

  title: str
  run: Run
  guidance: str = 'none'
  seed: int = 0
  changes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
  """A guidance method with its published and its swept scales.

  `published` is '' if no scale is published for class labels.
  """

  name: str
  published: str
  grid: str


# SiT-XL/2 was published with CFG 1.5 (2401.08740, and 2503.18886 for CFG-Zero*)
# and with IG + CFG (2512.24176), and SiT-B/2 with IG 1.9 (2512.24176). The
# scale of S2 was published for text (2508.12880).
METHODS = (
  Method('CFG', 'cfg:1.5', 'cfg:1.25..2.25:5'),
  Method('IG', 'ig:1.9', 'ig:1.5..3.5:5'),
  Method('IG + CFG', 'ig:1.4,cfg:1.35@0-0.7', 'ig:1.5..2.5:3,cfg:1.25..1.75:3'),
  Method('S2', 's2:1.25', 's2:1.25..2.25:5'),
  Method('CFG + S2', 'cfg:1.5,s2:1.25', 'cfg:1.25..1.75:3,s2:1.25..1.75:3'),
  Method('CFG-Zero*', 'cfg_zero:1.5', 'cfg_zero:1.25..2.25:5'),
  Method('APG', '', 'apg:1.5..3.5:5'),
)


def trained(name: str, *changes: str, seed: int = 0) -> Run:
  """Returns a network trained from the start, with changed config keys."""
  keys = ('data.dir={data}', f'seed={seed}', *changes)
  return Run(name, (_words('train', CONFIG, f'{{out}}/{name}', keys),))


def teacher(seed: int) -> Run:
  """Returns the network of the unchanged config with a seed."""
  return trained(f'seed_{seed}', seed=seed)


def _words(
  command: str, config: str, workdir: str, keys: Sequence[str], *more: str
) -> tuple[str, ...]:
  return (
    command, f'--config={config}', f'--workdir={workdir}', *more,
    *(f'--config.{key}' for key in keys),
  )  # fmt: skip


def published(seeds: Sequence[int], best: Best) -> list[Row]:
  """Compares guidance methods at their published scales."""
  del best
  rows = [Row('none', teacher(seed), seed=seed) for seed in seeds]
  for method in METHODS:
    if method.published:
      rows += [
        Row(method.name, teacher(seed), method.published, seed)
        for seed in seeds
      ]
  # The effective CFG scale of IG 1.9 on these networks is 1.20.
  rows += [
    Row('CFG at the effective scale of IG', teacher(seed), 'cfg:1.2', seed)
    for seed in seeds
  ]
  return rows


def tuned(seeds: Sequence[int], best: Best) -> list[Row]:
  """Compares guidance methods at the best scales of another network."""
  rows = [Row('none', teacher(seed), seed=seed) for seed in seeds]
  for method in METHODS:
    rows += [
      Row(method.name, teacher(seed), best(method.name), seed) for seed in seeds
    ]
  return rows


def internal(seeds: Sequence[int], best: Best) -> list[Row]:
  """Varies tap depth, weight and interval of IG, and the training target."""
  guided = best('IG')
  weights = 'objective.intermediate_weights'
  changes = {
    'tap after block 1': ('model.taps=(1,)',),
    'tap after block 4': ('model.taps=(4,)',),
    'weight 0.1': (f'{weights}=(0.1,)',),
    'weight 1': (f'{weights}=(1.0,)',),
    'guided target': (
      'objective.guided_weight=0.5', 'objective.guided_start_images=32_000',
    ),
  }  # fmt: skip
  rows = []
  for seed in seeds:
    runs = {'tap after block 2, weight 0.5': teacher(seed)}
    for title, keys in changes.items():
      name = f'{title.replace(" ", "_")}_{seed}'
      runs[title] = trained(name, *keys, seed=seed)
    rows.append(Row('no tap, unguided', bare(seed), seed=seed))
    for title, run in runs.items():
      rows.append(Row(f'{title}, unguided', run, seed=seed))
      rows.append(Row(f'{title}, {guided}', run, guided, seed))
    for interval in ('0-0.7', '0.3-1', '0.3-0.7'):
      text = f'{guided}@{interval}'
      rows.append(Row(f'interval {interval}', teacher(seed), text, seed))
  return rows


def blocks(seeds: Sequence[int], best: Best) -> list[Row]:
  """Varies the number of skipped blocks, the scale and the interval of S2."""
  del best
  rows = []
  for seed in seeds:
    rows.append(Row('none', teacher(seed), seed=seed))
    for skip in (1, 2, 3):
      for omega in (0.25, 0.5, 1.0):
        text = f's2:{1 + omega}:skip={skip}'
        for interval, note in (('', ''), ('@0.1-0.9', ', central 80 %')):
          title = f'{skip} skipped, omega {omega}{note}'
          rows.append(Row(title, teacher(seed), text + interval, seed))
  return rows


def bare(seed: int) -> Run:
  """Returns a network that was trained without a tap."""
  keys = ('model.taps=()', 'log.preview_guidance=none')
  return trained(f'bare_{seed}', *keys, seed=seed)


def own_samples(seed: int) -> Run:
  """Returns the CFG samples of the bare network, as a prepared data set."""
  name = f'own_{seed}'
  folder = f'{{out}}/{name}'
  return Run(
    name,
    (
      ('sample', f'--workdir={{out}}/bare_{seed}', f'--out={folder}/samples',
       '--guidance=cfg:1.5', '--num=5000', f'--seed={1000 + seed}'),
      ('prepare', f'--images={folder}/samples/samples.npz', '--image_size=28',
       f'--config={CONFIG}', '--config.data.name=own',
       f'--config.data.dir={folder}'),
    ),
    (bare(seed),),
  )  # fmt: skip


def head(seed: int, kind: str, data: str) -> Run:
  """Returns the bare network with a trained head after block 2."""
  name = f'head_{kind}_{data}_{seed}'
  keys = (
    f'train.init_from={{out}}/bare_{seed}', 'train.parameters=taps',
    f'model.tap_head={kind}', f'seed={seed}', 'train.images=32_000',
    'log.preview_every_images=0',
    *(('data.dir={data}',) if data == 'real' else
      (f'data.dir={{out}}/own_{seed}', 'data.name=own', 'data.test_split=')),
  )  # fmt: skip
  needs = (bare(seed) if data == 'real' else own_samples(seed),)
  return Run(name, (_words('train', CONFIG, f'{{out}}/{name}', keys),), needs)


def heads(seeds: Sequence[int], best: Best) -> list[Row]:
  """Compares heads on a frozen network with IG that was trained in."""
  del best
  rows = []
  for seed in seeds:
    rows.append(Row('frozen network, unguided', bare(seed), seed=seed))
    rows.append(Row('native IG, unguided', teacher(seed), seed=seed))
    for scale in (1.25, 1.5, 2.0):
      text = f'ig:{scale}'
      rows.append(Row(f'native IG, {text}', teacher(seed), text, seed))
      for kind in ('linear', 'block'):
        for data in ('real', 'own'):
          title = f'{kind} head, {data} images, {text}'
          rows.append(Row(title, head(seed, kind, data), text, seed))
  return rows


def student(
  seed: int, name: str, argument: str, *changes: str, after: Run | None = None
) -> Run:
  """Returns a student of the teacher with a seed.

  `argument` is METHOD,STEPS, and `after` is a run that trains before.
  """
  config = f'configs/distill/fashion_mnist.py:{argument}'
  keys = ('data.dir={data}', f'seed={seed}', *changes)
  words = _words(
    'distill', config, f'{{out}}/{name}_{seed}', keys,
    f'--teacher={{out}}/{teacher(seed).name}',
  )  # fmt: skip
  return Run(f'{name}_{seed}', (words,), (after or teacher(seed),))


def students(seeds: Sequence[int], best: Best) -> list[Row]:
  """Compares students in 1, 2 and 4 steps with their teacher."""
  rows = []
  for seed in seeds:
    runs = {}
    for text in ('none', best('CFG')):
      rows.append(Row(f'teacher, {text}', teacher(seed), text, seed))
    for steps in (1, 2, 4):
      for method in ('dm', 'hybrid'):
        name = f'{method}_{steps}'
        runs[f'{method}, {steps} steps'] = student(
          seed, name, f'{method},{steps}'
        )
      changes = (f'sample.steps={steps}',)
      title = f'teacher, {best("CFG")}, {steps} steps'
      rows.append(Row(title, teacher(seed), best('CFG'), seed, changes))
    for steps in (2, 4):
      run = student(seed, f'flash_{steps}', f'flash,{steps}')
      runs[f'Flash, {steps} steps'] = dataclasses.replace(run, result='student')
    # The stage `sharing` comes before the split into two branches.
    runs['Flash without split, 4 steps'] = dataclasses.replace(
      run, result='2-sharing'
    )
    runs['Flash without split, same updates, 4 steps'] = student(
      seed, 'sharing_long', 'sharing,4', 'train.images=32_000',
      f'train.init_from={{out}}/{run.name}/1-trajectory', after=run,
    )  # fmt: skip
    run = student(seed, 'no_gan_4', 'flash,4', 'distill.gan_weight=0.0')
    runs['Flash without GAN, 4 steps'] = dataclasses.replace(
      run, result='student'
    )
    rows += [Row(title, run, seed=seed) for title, run in runs.items()]
  return rows


PLANS = {
  'published': published,
  'tuned': tuned,
  'internal': internal,
  'blocks': blocks,
  'heads': heads,
  'students': students,
}
