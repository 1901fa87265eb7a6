"""All keys of a run, with meanings, units and defaults.

Other config files only change values. Durations are in images seen. The
dataclasses of the sections (train/experiment.py) give the range of each value.
The command line overrides any key:

  python main.py train --config=configs/digits.py --workdir=runs/digits \
    --config.optimizer.lr=1e-3 --config.model.taps='(2,4)'
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults: the published SiT + IG recipe (arXiv 2512.24176)."""
  config = ml_collections.ConfigDict()
  # Random seed for initialization, data order and noise.
  config.seed = 0

  model = config.model = ml_collections.ConfigDict()
  # Name FAMILY-SIZE/PATCH: FAMILY is SiT, DiT or LightningDiT; SIZE is Tiny, S,
  # B, L or XL; PATCH is 1, 2, 4 or 8. The name sets the keys below that are 0
  # or auto, except null_label and dtype.
  model.name = 'SiT-XL/2'
  model.depth = 0  # Number of blocks L.
  model.width = 0  # Model dimension D.
  model.num_heads = 0  # Number of attention heads.
  model.mlp_ratio = 4.0  # Ratio of the MLP's hidden width to D.
  model.size = 32  # Height and width of a latent.
  model.channels = 4  # Channels of a latent.
  model.num_classes = 1000  # Number of classes.
  # Taps: blocks, counted from 1, that are followed by an intermediate head.
  model.taps = (8,)
  # Intermediate heads: linear (output layer) or block (block and output layer).
  model.tap_head = 'linear'
  # Norm before attention and MLP: layernorm (no gain) or rmsnorm (with gain).
  model.norm = 'auto'
  # Kind of MLP: gelu (tanh form) or swiglu (hidden width 2/3 * mlp_ratio * D).
  model.mlp = 'auto'
  model.rope = 'auto'  # Rotary position embedding: true or false.
  # Learned variance as in DiT, with C more output channels: true or false.
  model.learned_variance = 'auto'
  # Null label, for CFG: true, false, or auto (true if label_dropout is not 0).
  model.null_label = 'auto'
  # Convention of the network's output: velocity (dx/dt, noise at t = 1),
  # reversed (dx/dt, noise at t = 0, as in published SiT and LightningDiT),
  # noise (predicted noise at DiT's steps 0..999) or data (predicted x0).
  model.convention = 'auto'
  # Lowest divisor in convention data, v = (x - prediction) / max(t, min_time).
  model.min_time = 0.05
  # Normalization of queries and keys: none, layernorm or rmsnorm.
  model.qk_norm = 'none'
  model.shift = True  # Shift in the modulation (in addition to scale and gate).
  # Data type of activations: auto (bfloat16 on accelerators, float32 on CPU),
  # float32, bfloat16 or float64 (for parity checks).
  model.dtype = 'auto'
  # Data type of parameters: float32, bfloat16 or float64.
  model.param_dtype = 'float32'
  # Attention kernel: xla, or cudnn (NVIDIA GPUs in bfloat16; xla elsewhere).
  model.attention = 'xla'
  # Recomputation in the backward pass: none, dots (all but matrix products)
  # or full (whole blocks). docs/scaling.md lists the memory of each value.
  model.remat = 'dots'
  model.scan = True  # Scan over the blocks; False: a Python loop (debugging).

  objective = config.objective = ml_collections.ConfigDict()
  # Interpolant between data and noise: linear, cosine, vp or discrete.
  objective.path = 'linear'
  # Prediction target: velocity, or noise (as in DiT, with its variance term).
  objective.prediction = 'velocity'
  # Distribution of training times: uniform, logit_normal or discrete.
  objective.time_sampling = 'uniform'
  objective.time_mean = 0.0  # Mean of logit_normal.
  objective.time_std = 1.0  # Standard deviation of logit_normal.
  objective.label_dropout = 0.1  # Probability that the label becomes null.
  # Weights of the losses on the taps; a single value applies to all taps.
  objective.intermediate_weights = (0.5,)
  # Weight of 1 - cosine(velocity, target) at each position; 0: off.
  objective.cosine_weight = 0.0
  # Weight w in the guided target of the output, target + w (v_f - v_i), with
  # output v_f and weak prediction v_i of the EMA network; 0: off.
  objective.guided_weight = 0.0
  objective.guided_start_images = 0  # Images seen before guided_weight applies.
  # Weak prediction v_i: tap (the first), null (null label) or skip (blocks).
  objective.guided_weak = 'tap'
  objective.guided_blocks = ()  # Blocks that skip leaves out, counted from 0.

  optimizer = config.optimizer = ml_collections.ConfigDict()
  # Optimizer: adamw, or muon (Muon for matrices, Adam for other parameters).
  optimizer.name = 'adamw'
  optimizer.lr = 1e-4  # Peak learning rate.
  optimizer.b1 = 0.9  # Decay of Adam's moving average of gradients.
  optimizer.b2 = 0.999  # Decay of Adam's moving average of squared gradients.
  optimizer.eps = 1e-8  # Constant in the denominator of Adam.
  # Weight decay (decoupled) of arrays named 'kernel'; with muon, also of all
  # other matrices that Muon updates.
  optimizer.weight_decay = 0.0
  optimizer.momentum = 0.95  # Decay of Muon's moving average of gradients.
  # Precision in which Muon orthogonalizes: bfloat16 (published) or float32.
  optimizer.muon_dtype = 'bfloat16'
  optimizer.clip = 1.0  # Largest global norm of the gradient; 0: no clipping.
  optimizer.warmup_images = 0  # Images over which the learning rate rises.
  # Schedule after the warm-up: constant, or cosine (ends at end_fraction * lr).
  optimizer.schedule = 'constant'
  optimizer.end_fraction = 0.0  # Fraction of lr at the end of the schedule.

  ema = config.ema = ml_collections.ConfigDict()
  ema.decay = 0.9999  # Decay per step of the moving average of the weights.
  # Ramp of the decay, which is then at most (1 + step) / (10 + step).
  ema.ramp = False
  # Relative widths of power-function averages (EDM2), such as (0.05, 0.10).
  ema.widths = ()
  # Images between snapshots of the power-function averages. With several
  # snapshots, --weights=ema:WIDTH computes averages of other widths.
  ema.snapshot_images = 2_560_000

  data = config.data = ml_collections.ConfigDict()
  # Data set: digits, or a folder in data.dir, made by `prepare` or by TFDS (as
  # ArrayRecord files).
  data.name = 'digits'
  data.dir = 'runs/data'  # Directory of the data sets.
  data.train_split = 'train'  # Training split, to which distances are measured.
  data.test_split = 'test'  # Held-out split, which `compare` scores; '': none.
  # Autoencoder that made the latents (dit/autoencoder/registry.py), or pixels.
  data.autoencoder = 'pixels'
  # Statistics that normalize latents: autoencoder (its constants), or data
  # (mean and std of each channel over the training split).
  data.statistics = 'autoencoder'
  data.flip = False  # Random horizontal flips of half of the images.
  data.workers = 0  # Number of worker processes; 0: the training process reads.
  data.threads = 8  # Number of reading threads in each process.
  data.prefetch = 8  # Number of batches that each process reads ahead.

  train = config.train = ml_collections.ConfigDict()
  # Images seen in all. A larger value continues a finished run.
  train.images = 102_400_000
  train.batch_size = 256  # Batch size over all devices.
  # Number of consecutive non-finite steps after which the run ends.
  train.max_bad_steps = 10
  # Number of parts of a batch, processed in sequence to save memory.
  train.accumulate = 1
  # Initial weights: a run, or a folder of unquantized weights; '': random.
  # In a recipe with stages, the path is relative to the workdir of the stage.
  train.init_from = ''
  # Trained parameters: all, or taps (intermediate heads on a frozen network).
  train.parameters = 'all'

  mesh = config.mesh = ml_collections.ConfigDict()
  # Number of devices for data parallelism; -1: the number of all devices,
  # divided by fsdp * tensor.
  mesh.data = -1
  # Number of devices for FSDP, which shards the parameters and the batch.
  mesh.fsdp = 1
  mesh.tensor = 1  # Number of devices for tensor parallelism.
  # ZeRO-1: sharding of optimizer state and EMA weights over mesh.data.
  mesh.zero1 = False

  checkpoint = config.checkpoint = ml_collections.ConfigDict()
  checkpoint.every_images = 2_560_000  # Images between checkpoints.
  checkpoint.keep = 2  # Number of the newest checkpoints to keep.
  # Images between checkpoints that are never deleted, a multiple of
  # every_images; 0: none. AutoGuidance can use an early checkpoint.
  checkpoint.keep_every_images = 0
  checkpoint.keep_best = 0  # Number of the best checkpoints to keep.
  # Criterion of the best checkpoint: loss (mean since the previous checkpoint),
  # or a metric.
  checkpoint.best_by = 'loss'
  # Fallback from a damaged checkpoint to the previous checkpoint.
  checkpoint.fallback = False

  log = config.log = ml_collections.ConfigDict()
  log.every_images = 25_600  # Images between lines of metrics.jsonl.
  log.preview_every_images = 2_560_000  # Images between previews; 0: none.
  log.preview_guidance = 'ig:1.4,cfg:1.35@0-0.7'  # Guidance of previews.
  log.preview_num = 64  # Number of images of a preview.
  # Weights & Biases project: PROJECT or ENTITY/PROJECT; '': none. A project
  # needs requirements-wandb.txt. WANDB_MODE=offline is supported.
  log.wandb = ''

  sample = config.sample = ml_collections.ConfigDict()
  # Solver: euler, heun, midpoint, rk4, dpm++, euler_maruyama, heun_maruyama,
  # ddim, ddpm, renoise (students) or dopri5 (adaptive), with options as in
  # heun:final_step=heun, ddim:eta=0.5 or dopri5:rtol=1e-5.
  sample.solver = 'euler_maruyama'
  sample.steps = 250  # Number of solver steps.
  # Spacing of the times: uniform, cosine, quadratic, karras (our variant), edm
  # (EDM's grid), or a list such as 1,0.8,0.3,0 (sample/grid.py).
  sample.spacing = 'uniform'
  sample.shift = 1.0  # Shift of the times; above 1: more steps near the noise.
  # Size, before the shift, of a separate last step to t = 0; 0: no such step.
  sample.last_step_size = 0.04
  # Respacing of DiT's discrete steps, such as 250, ddim50 or 50,30,20. It
  # replaces steps, spacing, shift and last_step_size; '': none.
  sample.respacing = ''
  # Times at which guidance reads its scales: step (start of each step) or
  # evaluation (each evaluation of the network).
  sample.scales_at = 'step'
  # Data type of solver state and guidance: float32 or float64 (not on TPUs).
  sample.state_dtype = 'float32'
  # Truncation of pixels to 8 bits (as in the code of REPA, and of IG for SiT)
  # instead of rounding (as in the code of DiT, SiT and LightningDiT).
  sample.truncate = False
  sample.batch_size = 64  # Images per compiled call, over all devices.

  evaluation = config.eval = ml_collections.ConfigDict()
  # Extractor of features: inception:FILE (published weights), classifier
  # (trained on the training split), classifier:FOLDER, or your FILE.py:NAME.
  evaluation.extractor = 'classifier'
  # Preprocessing: adm, torch_fidelity (same as adm), pytorch_fid or clean_fid.
  evaluation.preprocessing = 'adm'
  # Reference: statistics (.npz), an .npz of images, a folder, a .zip or
  # tfds:NAME:SPLIT; '': the training split.
  evaluation.reference = ''
  # Image size after ADM's crop of image files; 0: no crop.
  evaluation.image_size = 0
  evaluation.batch_size = 64  # Images per extractor call, over all devices.
  # Metrics: fd, sfd, is, kid, precision, recall, accuracy or fd_inf; (): all
  # that can be computed, except fd_inf.
  evaluation.metrics = ()
  evaluation.neighbors = 3  # Number k of neighbors in precision and recall.
  # Float16 for the distances of precision and recall, as in ADM's evaluator.
  evaluation.float16_distances = False
  evaluation.split_size = 5000  # Images per split of the Inception Score.
  evaluation.kid_subsets = 100  # Number of subsets for the kernel distance.
  evaluation.kid_subset_size = 1000  # Images per subset of the kernel distance.
  # Reference images for precision, recall and kid (ADM: 10,000); 0: all.
  evaluation.reference_rows = 10_000
  evaluation.repeats = 1  # Number of disjoint image sets for standard errors.
  evaluation.bootstrap = 0  # Number of bootstrap resamples; 0: none.
  # Images seen between evaluations during training; 0: no evaluations.
  evaluation.every_images = 0
  evaluation.num = 1000  # Images sampled per evaluation during training.
  evaluation.guidance = 'none'  # Guidance in evaluations during training.
  return config
