#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM. The same command resumes.
#
#   NAME=pod ZONE=us-east5-a launch/tpu_vm.sh --config=configs/sit.py:XL/2,ig \
#     --workdir=gs://bucket/run --config.data.dir=/data --config.mesh.fsdp=8
#
# The TPU must exist already:
#
#   gcloud compute tpus tpu-vm create $NAME --zone=$ZONE \
#     --accelerator-type=v5p-128 --version=v2-alpha-tpuv5
#
# The committed files are copied to every worker and installed there. Every worker
# must be able to read the records, from a mounted bucket (gcsfuse) or a disk.
set -euo pipefail
: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
[ $# -gt 0 ] || { echo "usage: NAME=... ZONE=... $0 TRAIN_FLAGS" >&2; exit 2; }
cd "$(dirname "$0")/.."

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
    --command="$1"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git archive --format=tar.gz --output="$folder/code.tar.gz" HEAD
gcloud compute tpus tpu-vm scp "$folder/code.tar.gz" "$NAME:code.tar.gz" \
  --zone="$ZONE" --worker=all

# A running training holds the lock, which keeps its code from being replaced. uv
# installs its own Python, since the Python of the image may be too old.
everywhere '
  set -e
  flock --nonblock train.lock true ||
    { echo "a training is running here; stop it first" >&2; exit 1; }
  rm -rf code && mkdir code && tar -xzf code.tar.gz -C code
  export PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  [ -x venv/bin/python ] || uv venv --quiet --python 3.12 venv
  uv pip install --quiet --python venv/bin/python \
    --editable "code[tpu]"'

# nohup lets the training outlive the connection. The log is train.log on every
# worker. After SIGTERM to any worker (preemption, or pkill -TERM python), the run
# saves once, and all workers end with status 0.
flags=$(printf ' %q' "$@")
everywhere "
  cd code
  JAX_COMPILATION_CACHE_DIR=\$HOME/jax-cache nohup \
    flock --nonblock --no-fork ../train.lock \
    ../venv/bin/python main.py train --distributed$flags \
    >>../train.log 2>&1 </dev/null &"
echo "Started; to follow it: gcloud compute tpus tpu-vm ssh $NAME --zone=$ZONE \
  --worker=0 --command='tail -f train.log'"
