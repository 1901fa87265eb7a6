"""All keys of the section `distill`, which makes a run a student.

configs/base.py lists the other sections; `sample` holds the student's grid and
solver. Other files in this folder only change values. distill/config.py gives
the range of each value.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the default config of a student."""
  config = base.get_config()
  add_section(config)
  return config


def add_section(config: ml_collections.ConfigDict) -> None:
  """Adds the section `distill` with its defaults to a config."""
  distill = config.distill = ml_collections.ConfigDict()
  # Teacher: a run (its EMA weights) or a folder of weights; --teacher sets it.
  distill.teacher = ''
  # Method: dmd, or teacher_trajectory, which regresses on the teacher's
  # trajectory and reads no other keys than guidance and substeps.
  distill.method = 'dmd'
  # Guidance of the teacher: ig, cfg or both. The scale of cfg is alpha of
  # Decoupled DMD. If the guidance is none or cfg:1, the loss has no CA term.
  distill.guidance = 'none'
  # Query points of DMD: renoise (noised samples), student_trajectory (states of
  # the student, as in SD3.5-Flash) or grid (samples noised to grid times).
  distill.query = 'renoise'
  # Schedule of noise levels, for query = 'renoise': shared (one level for both
  # CA and DM), full, constrained or hybrid (distill/noise_levels.py).
  distill.schedule = 'hybrid'
  # Normalizer, the unit of CA and DM: distance from the sample to the teacher's
  # prediction, which is guided (DMD2; CA and DM must share one noise level) or
  # conditional (ours: Decoupled DMD's equation 6 has no unit).
  distill.normalizer = 'conditional'
  # Regularizer added to the CA term: dm, mean_variance, gan or none.
  distill.regularizer = 'dm'
  distill.dm_weight = 1.0  # Weight of the regularizer dm or mean_variance.
  distill.ca_weight = 1.0  # Weight of the CA term.
  distill.min_level = 0.02  # Lowest noise level of the loss.
  distill.max_level = 0.98  # Highest noise level of the loss.
  distill.shift = 1.0  # Shift of noise levels; above 1: noisier levels.
  # Moments (mean, std) of a latent, for mean_variance; (): measured on data.
  distill.moments = ()
  # Trained parameters of the fake denoiser: full (all), or lora (low-rank
  # changes of attention's queries and values). Neither has weight decay.
  distill.fake = 'full'
  distill.lora_rank = 32  # Rank of the low-rank changes.
  distill.lora_scale = 2.0  # Scale of the low-rank changes.
  # Number of fake denoiser updates for each student update. Every step updates
  # the fake denoiser; every fake_updates-th step also updates the student.
  distill.fake_updates = 5
  # Learning rate (constant) of the fake denoiser; 0: optimizer.lr.
  distill.fake_lr = 0.0
  # Beta distribution (a, b) of noise levels at the start of training, for DM
  # and the fake denoiser's loss (DMDR's dynamic start); (1.0, 1.0): uniform.
  distill.level_beta = (1.0, 1.0)
  # Scale, at the start, of the fake denoiser's low-rank changes when they are
  # added to the teacher for the real score (DMDR: 0.75); 0: the teacher alone.
  distill.teacher_lora_scale = 0.0
  # Number of student updates until the dynamic start has faded out.
  distill.dynamic_updates = 10_000
  # Random choice, for each image, of the student's step to train; False: one
  # choice for the whole batch.
  distill.step_per_image = False
  # Weight of the student's adversarial loss; 0: no discriminator. The
  # discriminator sees the fake denoiser's activations on fake and real latents.
  distill.gan_weight = 0.0
  distill.discriminator_weight = 0.01  # Weight of the discriminator's loss.
  # Blocks that the discriminator reads; (): the last block in each third of the
  # network.
  distill.discriminator_blocks = ()
  # Probability, per step, that a head of the discriminator is reset.
  distill.discriminator_reset = 0.0
  # Steps of the teacher in each step of the student, for teacher_trajectory.
  distill.substeps = 8
  distill.branch = ''  # Branch: '' (all times), low (t up to 0.5) or high.
  # Stages of a recipe, as arguments of the config file; (): no recipe. Each
  # stage starts from the previous one, except that the last two, low and high,
  # both start from the stage before low. Finally, low and high are merged.
  distill.stages = ()
  # Ratios r to try in the merge r * low + (1 - r) * high. The ratio with the
  # lowest Frechet distance is used.
  distill.merge_ratios = (0.0, 0.3, 0.5, 0.7, 1.0)
