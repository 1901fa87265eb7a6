"""Every key, once: meaning, unit, default. Other files change values only.

Durations are in images seen. Each value has a range, which stands beside its
field in the section's dataclass (train/experiment.py lists these). The command
line overrides any key:

  python main.py train --config=configs/digits.py --workdir=runs/digits \
    --config.optimizer.lr=1e-3 --config.model.taps='(2,4)'
"""

import ml_collections


def parse_argument(
  argument: str, sizes: tuple[str, ...], options: tuple[str, ...]
) -> tuple[str, set[str]]:
  """Splits what recipes take, such as 'XL/2,ig'.

  Args:
    argument: SIZE/PATCH[,OPTION...].
    sizes: known.
    options: known.

  Returns:
    'SIZE/PATCH', and the options.

  Raises:
    ValueError: for any other text; of message, words that are wrong, known
      words.
  """
  name, *given = argument.split(',')
  size = name.partition('/')[0]
  wrong = [size] * (size not in sizes) + [o for o in given if o not in options]
  if wrong or len({*given}) < len(given):
    raise ValueError(
      f'{argument!r} is not SIZE/PATCH[,OPTION...] with sizes '
      f'{", ".join(sizes)} and options {", ".join(options)}',
      wrong[:1],
      (*sizes, *options),
    )
  return name, {*given}


def get_config() -> ml_collections.ConfigDict:
  """The defaults: the published SiT + IG recipe (arXiv 2512.24176)."""
  config = ml_collections.ConfigDict()
  # Seed of everything random: initialization, data order, noise.
  config.seed = 0

  config.model = ml_collections.ConfigDict()
  # Family-size/patch; families are SiT, DiT, LightningDiT; sizes Tiny, S, B,
  # L, XL; patches 1, 2, 4, 8.
  config.model.name = 'SiT-XL/2'
  # Blocks L, model dimension D, attention heads; 0: as the name says.
  config.model.depth = 0
  config.model.width = 0
  config.model.num_heads = 0
  # Hidden width of the MLP over D.
  config.model.mlp_ratio = 4.0
  # Height and width, and channels, of a latent.
  config.model.size = 32
  config.model.channels = 4
  config.model.num_classes = 1000
  # Intermediate predictions are read after these numbers of blocks.
  config.model.taps = (8,)
  # Architecture, auto: as the name says. Norm before each part: layernorm or
  # rmsnorm; MLP: gelu or swiglu; rotary positions: true or false; channels for
  # a learned variance: true or false.
  config.model.norm = 'auto'
  config.model.mlp = 'auto'
  config.model.rope = 'auto'
  config.model.learn_sigma = 'auto'
  # Whether it has a null label, for CFG; auto: where label_dropout is not 0.
  config.model.null_label = 'auto'
  # Convention of the network's output, auto: as the name says; velocity,
  # reversed or noise (dit/parameterization.py).
  config.model.convention = 'auto'
  # Normalization of queries and keys: none, layernorm or rmsnorm.
  config.model.qk_norm = 'none'
  # Whether the modulation of blocks shifts, beside scale and gate.
  config.model.shift = True
  # Type of activations: auto (bfloat16 on accelerators, float32 on CPU),
  # float32 or bfloat16 (or float64, for parity checks).
  config.model.dtype = 'auto'
  # Type of parameters: float32 or bfloat16 (or float64).
  config.model.param_dtype = 'float32'
  # Attention: xla (plain products) or cudnn (on NVIDIA GPUs in bfloat16;
  # elsewhere the same as xla).
  config.model.attention = 'xla'
  # Parts that the backward pass recomputes: none, dots (all but layers'
  # products) or full (whole blocks); docs/scaling.md has the memory.
  config.model.remat = 'dots'
  # False runs the blocks in a Python loop, for debugging.
  config.model.scan = True

  config.objective = ml_collections.ConfigDict()
  # Path between data and noise: linear, cosine, vp or discrete.
  config.objective.path = 'linear'
  # Prediction whose errors count: velocity, or noise (DiT, with its learned
  # variance).
  config.objective.prediction = 'velocity'
  # Distribution of training times: uniform, logit_normal (with mean and std) or
  # discrete.
  config.objective.time_sampling = 'uniform'
  config.objective.time_mean = 0.0
  config.objective.time_std = 1.0
  # Probability that a label is replaced by the null label.
  config.objective.label_dropout = 0.1
  # Weight of the loss on each tap; a single value serves all taps.
  config.objective.intermediate_weights = (0.5,)
  # Weight of 1 - cosine(velocity, target) at each position; 0: off.
  config.objective.cosine_weight = 0.0
  # Guided target of the output, target + w (v_f - v_i), w 0: off; v_f and v_i
  # are output and first tap of the network (live) or its average (ema). Images
  # seen before it starts; whether the taps' target is guided too.
  config.objective.guided_weight = 0.0
  config.objective.guided_by = 'ema'
  config.objective.guided_start_images = 0
  config.objective.guided_taps = False

  config.optimizer = ml_collections.ConfigDict()
  # adamw, or muon on matrices with Adam on the rest.
  config.optimizer.name = 'adamw'
  # Settings of both; b1, b2 and eps are Adam's. Weight decay acts on matrices
  # only.
  config.optimizer.lr = 1e-4
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.999
  config.optimizer.eps = 1e-8
  config.optimizer.weight_decay = 0.0
  # For Muon: decay of the average gradient, and the precision in which it
  # orthogonalizes: bfloat16 (published) or float32.
  config.optimizer.momentum = 0.95
  config.optimizer.muon_dtype = 'bfloat16'
  # Largest global norm of the gradient; 0: no clipping.
  config.optimizer.clip = 1.0
  # Linear warm-up, then constant or cosine (down to end_fraction of lr).
  config.optimizer.warmup_images = 0
  config.optimizer.schedule = 'constant'
  config.optimizer.end_fraction = 0.0

  config.ema = ml_collections.ConfigDict()
  # Decay per step; ramp: at most (1 + step) / (10 + step).
  config.ema.decay = 0.9999
  config.ema.ramp = False
  # Relative widths of power-function averages (EDM2) beside it, such as
  # (0.05, 0.10), and images between their snapshots, from which
  # --weights=ema:WIDTH makes an average of any width.
  config.ema.widths = ()
  config.ema.snapshot_images = 2_560_000

  config.data = ml_collections.ConfigDict()
  # digits, a set that `prepare` wrote to `dir`, or a TFDS set that is there as
  # ArrayRecord.
  config.data.name = 'digits'
  config.data.dir = 'runs/data'
  # Split to train on, which is also the reference of distances; held-out split,
  # whose distance is the floor, '' for none.
  config.data.train_split = 'train'
  config.data.test_split = 'test'
  # Autoencoder whose latents the records are (dit/autoencoder/registry.py), or
  # pixels; and source of the constants that normalize latents: autoencoder (its
  # own constants) or data (mean and std of each channel over the training
  # split).
  config.data.autoencoder = 'pixels'
  config.data.statistics = 'autoencoder'
  # Whether half of the images are mirrored.
  config.data.flip = False
  # Processes that read, beside the training one; 0: it reads itself. Reading
  # threads and batches read ahead, of each.
  config.data.workers = 0
  config.data.threads = 8
  config.data.prefetch = 8

  config.prepare = ml_collections.ConfigDict()
  # Images to records: side of the center crop, and float16 or float32 for mean
  # and std of latents.
  config.prepare.image_size = 256
  config.prepare.dtype = 'float16'
  # Images per call of the encoder on each process, images per file, threads
  # that read images, and largest number of broken images.
  config.prepare.batch_size = 64
  config.prepare.shard_records = 4096
  config.prepare.threads = 16
  config.prepare.max_broken = 100

  config.train = ml_collections.ConfigDict()
  # Length of training, which can be raised to continue a run, and the global
  # batch size, both in images.
  config.train.images = 102_400_000
  config.train.batch_size = 256
  # Stop after so many non-finite steps in a row.
  config.train.max_bad_steps = 10
  # Parts of a batch that are computed one after the other, for memory.
  config.train.accumulate = 1
  # Workdir of a run, or folder of unquantized weights, whose weights a fresh
  # run starts with; empty: random ones. Stages of a recipe store it relative to
  # their own workdir.
  config.train.init_from = ''

  config.mesh = ml_collections.ConfigDict()
  # Devices along each axis, -1: all that remain. data: copies of the network;
  # fsdp: slices of its parameters; tensor: parts of each block.
  config.mesh.data = -1
  config.mesh.fsdp = 1
  config.mesh.tensor = 1
  # Optimizer state and averages cut over data too (ZeRO-1).
  config.mesh.zero1 = False

  config.checkpoint = ml_collections.ConfigDict()
  # Images between checkpoints, and how many of the newest to keep.
  config.checkpoint.every_images = 2_560_000
  config.checkpoint.keep = 2
  # Images between checkpoints that are kept for good, a multiple of
  # every_images; 0: none. An early one can guide the last (AutoGuidance).
  config.checkpoint.keep_every_images = 0
  # Number of the best to keep, by loss (mean since the one before), or by a
  # metric of eval, such as fd.
  config.checkpoint.keep_best = 0
  config.checkpoint.best_by = 'loss'
  # Whether a run continues from the one before when the newest is damaged, and
  # whether it goes on when one cannot be written (a full disk).
  config.checkpoint.fallback = False
  config.checkpoint.continue_unsaved = False

  config.log = ml_collections.ConfigDict()
  # Images between lines of metrics.jsonl, and between preview grids (0: none).
  config.log.every_images = 25_600
  config.log.preview_every_images = 2_560_000
  # Guidance and number of images of a preview.
  config.log.preview_guidance = 'ig:1.4,cfg:1.35@0-0.7'
  config.log.preview_num = 64
  # Project of Weights & Biases (or ENTITY/PROJECT) that gets the log too;
  # empty: none. Needs requirements-wandb.txt; WANDB_MODE=offline works.
  config.log.wandb = ''

  config.sample = ml_collections.ConfigDict()
  # euler, heun, midpoint, rk4, dpm++, euler_maruyama, heun_maruyama, ddim,
  # ddpm, renoise (of students) or dopri5 (adaptive), with options as
  # NAME:OPTION=VALUE, such as heun:last=heun, ddim:eta=0.5 or dopri5:rtol=1e-5.
  config.sample.solver = 'euler_maruyama'
  config.sample.steps = 250
  # Spacing of the times: uniform, cosine, quadratic, karras (our variant), edm
  # (EDM's own grid); or the times themselves, such as 1,0.8,0.3,0
  # (sample/grid.py).
  config.sample.spacing = 'uniform'
  # Above 1: more steps near the noise.
  config.sample.shift = 1.0
  # Length, before the shift, of a last step of its own to t = 0; 0: uniform.
  config.sample.last = 0.04
  # Not empty: DiT's discrete steps instead, such as 250, ddim50 or 50,30,20.
  config.sample.respacing = ''
  # Where guidance reads its scales: at the beginning of a step, or at each
  # evaluation.
  config.sample.scales_at = 'step'
  # Type of the state between steps and of guidance's arithmetic: float32 or
  # float64 (not on TPUs). The network computes in model.dtype in either case.
  config.sample.state_dtype = 'float32'
  # Whether pixels are truncated to 8 bits (REPA's and Internal Guidance's SiT
  # code) instead of rounded (DiT's, SiT's and LightningDiT's).
  config.sample.truncate = False
  # Images per compiled call.
  config.sample.batch_size = 64

  config.eval = ml_collections.ConfigDict()
  # Extractor of features: inception:FILE (the published weights), classifier
  # (trained on the training split), classifier:FOLDER, or FILE.py:NAME, yours.
  config.eval.extractor = 'classifier'
  # Resize and scaling before Inception: adm, torch_fidelity (the same),
  # pytorch_fid or clean_fid.
  config.eval.preprocessing = 'adm'
  # Real images: statistics (.npz), an .npz of images, a folder, a .zip or
  # tfds:NAME:SPLIT; empty: the training split.
  config.eval.reference = ''
  # Side that image files are cut to, as ADM cuts ImageNet; 0: as they are.
  config.eval.image_size = 0
  # Images per call of the extractor, over all devices.
  config.eval.batch_size = 64
  # fd, sfd, is, kid, precision, recall, accuracy; empty: all that can be
  # computed, except fd_inf, which must be named.
  config.eval.metrics = ()
  # For precision and recall: number of the neighbor that gives the radius, and
  # whether distances are float16, as ADM's are.
  config.eval.neighbours = 3
  config.eval.half = False
  # Images of each part of the Inception Score; subsets of the kernel distance.
  config.eval.split_size = 5000
  config.eval.kid_subsets = 100
  config.eval.kid_subset_size = 1000
  # Number of reference images whose features are kept for precision, recall and
  # the kernel distance (ADM: 10,000); 0: all.
  config.eval.reference_rows = 10_000
  # Standard errors: disjoint sets of images, or bootstrap resamples (0: none).
  config.eval.repeats = 1
  config.eval.bootstrap = 0
  # Evaluation while training: images seen between two (0: none), number of
  # images drawn for each, and their guidance.
  config.eval.every_images = 0
  config.eval.num = 1000
  config.eval.guidance = 'none'

  config.compare = ml_collections.ConfigDict()
  # Images per method, and the methods that `compare` puts side by side. S2 is
  # published on top of CFG, with omega 0.25.
  config.compare.num = 500
  config.compare.methods = ('none', 'cfg:1.35', 'ig:1.4', 'cfg:1.35,s2:1.25')
  # Methods whose scale is swept, and the scales.
  config.compare.sweep_methods = ('ig', 'cfg')
  config.compare.sweep_scales = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
  # Bootstrap resamples behind each standard error.
  config.compare.resamples = 50

  config.distill = ml_collections.ConfigDict()
  # The teacher, as --teacher gives it: a run (its average), or a folder of
  # weights. The student's grid and solver are those of the section sample.
  config.distill.teacher = ''
  # dmd, or trajectory (follows the teacher's; of the other keys only guidance
  # and substeps count); empty: no student.
  config.distill.method = ''
  # Guidance of the teacher: ig, cfg or both; alpha of Decoupled DMD is the
  # scale of cfg. Without guidance (none, cfg:1) there is no CA term.
  config.distill.guidance = 'none'
  # Points at which DMD evaluates both networks: samples noised anew (renoise),
  # points of the student's own trajectory (trajectory: SD3.5-Flash), or samples
  # noised to times of its grid (grid).
  config.distill.query = 'renoise'
  # Noise levels of the terms CA and DM, for renoise: shared (one for both),
  # full, constrained or hybrid (distill/noise_levels.py).
  config.distill.schedule = 'hybrid'
  # Unit of a term: distance of the sample to the teacher's prediction,
  # conditional (ours: Decoupled DMD's equation 6 has no unit), or guided (as in
  # DMD2; it needs one level for both terms).
  config.distill.normaliser = 'conditional'
  # Term beside CA: dm, mean_variance, gan or none; and the terms'
  # weights, dm_weight being that of mean_variance too.
  config.distill.regulariser = 'dm'
  config.distill.dm_weight = 1.0
  config.distill.ca_weight = 1.0
  # Range of noise levels; above 1, shift draws more of them near the noise.
  config.distill.min_level = 0.02
  config.distill.max_level = 0.98
  config.distill.shift = 1.0
  # Mean and standard deviation within a latent, for mean_variance; empty: as
  # measured on the training split.
  config.distill.moments = ()
  # The fake denoiser: full, or lora (low-rank changes of attention's projected
  # queries and values); rank and scale of lora; number of its updates for each
  # update of the student (every training step updates the fake denoiser, so the
  # student is updated train.images / batch_size / fake_updates times); and its
  # constant learning rate (0: optimizer.lr). It has no weight decay.
  config.distill.fake = 'full'
  config.distill.lora_rank = 32
  config.distill.lora_scale = 2.0
  config.distill.fake_updates = 5
  config.distill.fake_lr = 0.0
  # Dynamic start, as in DMDR's repository: initial Beta distribution of the
  # levels of DM and of the fake denoiser's loss, such as (4.0, 1.5) for more
  # noise ((1.0, 1.0): always uniform); initial scale of the fake denoiser's
  # low-rank changes in the real score, such as 0.75 (0: the teacher alone); and
  # number of the student's updates over which both fade out, along half a
  # cosine.
  config.distill.level_beta = (1.0, 1.0)
  config.distill.teacher_lora_scale = 0.0
  config.distill.dynamic_updates = 10_000
  # Whether each image draws the student's step; otherwise the batch draws one.
  config.distill.step_per_image = False
  # The discriminator on the fake denoiser's states, against real latents:
  # weight of the student's loss (0: none), of its own beside the fake's, after
  # which blocks it looks (empty: each third), and the probability that a head
  # is drawn anew at a step.
  config.distill.gan_weight = 0.0
  config.distill.discriminator_weight = 0.01
  config.distill.discriminator_blocks = ()
  config.distill.discriminator_reset = 0.0
  # Steps of the teacher in each interval of the grid, for trajectory; weight of
  # that loss beside dmd.
  config.distill.substeps = 8
  config.distill.trajectory_weight = 0.0
  # Times that are trained: empty for all, low (up to 0.5) or high.
  config.distill.branch = ''
  # If not empty, arguments of the config file, one stage after the other,
  # each starting with the one before. The last two, of branch low and high,
  # both start with the one before them and become one network, ratio low +
  # (1 - ratio) high, of these ratios that of the least Frechet distance.
  config.distill.stages = ()
  config.distill.merge_ratios = (0.0, 0.3, 0.5, 0.7, 1.0)
  return config
