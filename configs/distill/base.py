"""Every key of the section `distill`; a run that has the section is a student.

The other sections are those of configs/base.py; the student's grid and solver
are in the section `sample`. Other files in this folder change values only.
distill/config.py has the range of each value.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults of a student."""
  config = base.get_config()
  add_section(config)
  return config


def add_section(config: ml_collections.ConfigDict) -> None:
  """Adds the section `distill`, with its defaults, to a config."""
  distill = config.distill = ml_collections.ConfigDict()
  # Teacher: a run (its EMA weights) or a folder of weights. Set by --teacher.
  distill.teacher = ''
  # Method: dmd, or teacher_trajectory, which follows the teacher's trajectory
  # (of the other keys only guidance and substeps count).
  distill.method = 'dmd'
  # Guidance of the teacher: ig, cfg or both; alpha of Decoupled DMD is the
  # scale of cfg. Without guidance (none, cfg:1) there is no CA term.
  distill.guidance = 'none'
  # Points at which DMD evaluates both networks: renoise (samples noised again),
  # student_trajectory (points of the student's own trajectory, as SD3.5-Flash),
  # or grid (samples noised to times of its grid).
  distill.query = 'renoise'
  # Noise levels of the terms CA and DM, for renoise: shared (one for both),
  # full, constrained or hybrid (distill/noise_levels.py).
  distill.schedule = 'hybrid'
  # Unit of a term: distance of the sample to the teacher's prediction,
  # conditional (ours: Decoupled DMD's equation 6 has no unit), or guided (as in
  # DMD2; it needs one level for both terms).
  distill.normalizer = 'conditional'
  # Term beside CA: dm, mean_variance, gan or none.
  distill.regularizer = 'dm'
  distill.dm_weight = 1.0  # Weight of the term dm or mean_variance.
  distill.ca_weight = 1.0  # Weight of the term CA.
  distill.min_level = 0.02  # Least noise level of the terms.
  distill.max_level = 0.98  # Greatest noise level of the terms.
  distill.shift = 1.0  # Shift of noise levels; above 1: more near the noise.
  # Mean and standard deviation within a latent, for mean_variance; empty: as
  # measured on the training split.
  distill.moments = ()
  # Fake denoiser's parameters: full (all of them), or lora (low-rank changes of
  # attention's projected queries and values). It has no weight decay.
  distill.fake = 'full'
  distill.lora_rank = 32  # Rank of the low-rank changes.
  distill.lora_scale = 2.0  # Scale of the low-rank changes.
  # Updates of the fake denoiser for each update of the student. Every training
  # step updates the fake denoiser, so the student is updated
  # train.images / batch_size / fake_updates times.
  distill.fake_updates = 5
  # Learning rate of the fake denoiser, constant; 0: optimizer.lr.
  distill.fake_lr = 0.0
  # Beta distribution of the levels of DM and of the fake denoiser's loss at the
  # start (DMDR's dynamic start), such as (4.0, 1.5) for more noise; (1.0, 1.0):
  # always uniform.
  distill.level_beta = (1.0, 1.0)
  # Scale of the fake denoiser's low-rank changes in the real score at the
  # start, such as 0.75 (DMDR); 0: the teacher alone.
  distill.teacher_lora_scale = 0.0
  # Updates of the student over which the dynamic start fades out, along half a
  # cosine.
  distill.dynamic_updates = 10_000
  # Choice of the student's step for each image, instead of one for the batch.
  distill.step_per_image = False
  # Weight of the student's adversarial loss; 0: no discriminator. The
  # discriminator compares states of the fake denoiser with real latents' ones.
  distill.gan_weight = 0.0
  # Weight of the discriminator's loss beside the fake denoiser's.
  distill.discriminator_weight = 0.01
  # Blocks after which the discriminator looks; empty: each third.
  distill.discriminator_blocks = ()
  # Probability that a discriminator's head is reset at a step.
  distill.discriminator_reset = 0.0
  # Teacher's steps per interval of the student's grid, for teacher_trajectory.
  distill.substeps = 8
  distill.branch = ''  # Times that are trained: '' (all), low (to 0.5) or high.
  # Stages of a recipe: arguments of the config file, each starting with the
  # one before. The last two, of branch low and high, both start with the one
  # before them and become one network; empty: no recipe.
  distill.stages = ()
  # Ratios that the merge tries: ratio low + (1 - ratio) high, of which the one
  # of least Frechet distance is taken.
  distill.merge_ratios = (0.0, 0.3, 0.5, 0.7, 1.0)
