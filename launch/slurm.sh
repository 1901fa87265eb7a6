#!/usr/bin/env bash
# Trains on GPUs of a Slurm cluster, one process for each GPU.
#
#   sbatch --nodes=2 launch/slurm.sh --config=configs/sit.py:XL/2,ig \
#     --workdir=/shared/runs/sit-xl --config.data.dir=/shared/data
#
# The code, its .venv (make demo makes one, or pip install -r
# requirements-cuda.txt) and the records are on a file system that all nodes
# share. The job gets SIGTERM at a preemption with a grace time, and five minutes
# before its time limit. It then saves once, is requeued, and resumes.
#SBATCH --job-name=dit
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=TERM@300
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch $0 TRAIN_FLAGS" >&2; exit 2; }
cd "$SLURM_SUBMIT_DIR"
export JAX_COMPILATION_CACHE_DIR=$PWD/.jax-cache

# Slurm sends the signal to the processes of the step. If this shell also gets the
# signal, the shell only waits.
trap true TERM

# JAX takes the coordinator, the number of processes and their ranks from Slurm,
# and gives each process the GPU of its local rank. All of a node's GPUs must
# therefore be visible to each process (no --gpus-per-task).
srun --kill-on-bad-exit=0 \
  .venv/bin/python main.py train --distributed --stopped_status=143 "$@" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal interrupts wait
  status=0
  wait "$step" || status=$?
done

# Status 143 means that the run stopped early and saved.
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
