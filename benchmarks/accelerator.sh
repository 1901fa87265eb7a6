#!/usr/bin/env bash
# Benchmarks training and sampling at the XL size on one GPU or TPU chip:
#   bash benchmarks/accelerator.sh [FOLDER [TABLE...]]
# Prints all tables, or only the named ones. Writes each table to FOLDER (default:
# runs/benchmarks), as Markdown and as JSON.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/benchmarks}
wanted=" ${*:2} "
mkdir -p "$out"
# JAX reserves 75 % of a GPU's memory by default.
export XLA_CLIENT_MEM_FRACTION=${XLA_CLIENT_MEM_FRACTION:-.95}
ran=()
failed=()

table() {  # NAME MODULE ARGUMENTS...
  local name=$1 module=$2
  [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
  shift 2
  ran+=("$name")
  "${PYTHON:-python}" -m "benchmarks.$module" "$@" --json "$out/$name.json" \
    | tee "$out/$name.md" || failed+=("$name")
}

# Training. An attention head has 64 channels in B, and 72 in XL. A table marks
# the cases that do not fit in memory.
vary=(--vary model.attention xla cudnn --vary model.remat none dots)
table train_xl train_step configs/sit.py:XL/2,ig \
  --vary train.batch_size 128 256 "${vary[@]}"
table train_lightning train_step configs/lightningdit.py:XL/1,ig \
  --config.train.batch_size=128 "${vary[@]}"
table train_b train_step configs/sit.py:B/2,ig \
  --config.train.batch_size=256 "${vary[@]}"

# Sampling: all methods with 50 steps, IG with the published 250 steps, students.
table sample_methods sampling configs/sit.py:XL/2,ig --steps=50 \
  --batch_size=128 --rounds=3
table sample_250 sampling configs/sit.py:XL/2,ig --steps=250 \
  --batch_size=256 --methods none ig:1.4 --rounds=3
table sample_students sampling configs/sit.py:XL/2,ig --batch_size=128 \
  --methods none --students 1 2 4 --rounds=3

table compile compile_time

if ((!${#ran[@]})); then
  echo "No table is called$wanted" >&2
  exit 2
fi
if ((${#failed[@]})); then
  echo "Failed: ${failed[*]}" >&2
  exit 1
fi
