#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM; the same command again continues.
#
#   NAME=pod ZONE=us-east5-a launch/tpu_vm.sh --config=configs/sit.py:XL/2,ig \
#     --workdir=gs://bucket/run --config.data.dir=/data --config.mesh.fsdp=8
#
# The TPU exists already:
#
#   gcloud compute tpus tpu-vm create $NAME --zone=$ZONE \
#     --accelerator-type=v5p-128 --version=v2-alpha-tpuv5
#
# What is committed here is copied to every worker, and installed once. Records
# lie where every worker reads them: a mounted bucket (gcsfuse) or disk.
set -euo pipefail
: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
[ $# -gt 0 ] || { echo "usage: NAME=... ZONE=... $0 TRAIN_FLAGS" >&2; exit 2; }
cd "$(dirname "$0")/.."

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
    --command="$1"
}

archive=$(mktemp -t code-XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$NAME:code.tar.gz" \
  --zone="$ZONE" --worker=all

everywhere '
  set -e
  mkdir -p code && tar -xzf code.tar.gz -C code && cd code
  [ -d .venv ] || python3 -m venv .venv
  .venv/bin/pip install --quiet -r requirements-tpu.txt'

# SIGTERM to any worker (preemption, or pkill -TERM -f main.py) saves once and
# ends all with 0.
flags=$(printf ' %q' "$@")
everywhere "
  cd code
  JAX_COMPILATION_CACHE_DIR=\$HOME/jax-cache \
  .venv/bin/python main.py train --distributed$flags"
