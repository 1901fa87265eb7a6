#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, through XPK. After preemption or a kill
# the job restarts and resumes.
#
#   CLUSTER=pods PROJECT=my-project ZONE=us-east5-a TPU_TYPE=v5p-128 \
#     launch/gke_xpk.sh sit-xl --config=configs/sit.py:XL/2,ig \
#     --workdir=gs://bucket/run --config.data.dir=/data --config.mesh.fsdp=8
#
# XPK (pip install xpk) copies the committed files into the image that it builds
# on BASE_IMAGE, which needs Python 3.11 or newer. data.dir is a volume that the
# cluster mounts (xpk storage attach); the volume has the records.
set -euo pipefail
: "${CLUSTER:?}" "${PROJECT:?}" "${ZONE:?}" "${TPU_TYPE:?such as v5p-128}"
[ $# -gt 1 ] || { echo "usage: ... $0 JOB TRAIN_FLAGS" >&2; exit 2; }
cd "$(dirname "$0")/.."
job=$1
shift
flags=$(printf ' %q' "$@")

code=$(mktemp -d)
trap 'rm -rf "$code"' EXIT
git archive HEAD | tar -x -C "$code"

# GKE sends SIGTERM before it removes a node, and the job saves within its grace
# period. XPK restarts a job for statuses 127 to 255, such as 143 (stopped early)
# and 134 (another process died), but not for 0 (done) and 1 or 2 (an error).
xpk workload create \
  --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --workload="$job" --tpu-type="$TPU_TYPE" --num-slices=1 \
  --base-docker-image="${BASE_IMAGE:-python:3.12-slim}" --script-dir="$code" \
  --max-restarts="${RESTARTS:-100}" \
  --termination-grace-period-seconds="${GRACE_SECONDS:-300}" \
  --command="pip install --quiet -r requirements-tpu.txt && exec python main.py train --distributed --stopped_status=143$flags"
