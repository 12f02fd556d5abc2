#!/usr/bin/env bash
# One run on several machines without a scheduler: start this on each of them, in any order.
#   MACHINES=2 MACHINE=0 MASTER_ADDR=first.machine experiments/distributed/torchrun.sh CONFIG [options of fit]
#   MACHINES=2 MACHINE=1 MASTER_ADDR=first.machine experiments/distributed/torchrun.sh CONFIG [options of fit]
set -euo pipefail

config=${1:?give the YAML of a stage}
shift
machines=${MACHINES:-1}
machine=${MACHINE:-0}
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))} # on each machine

exec "${PYTHON:-python}" -m experiments.distributed.torchrun \
    --nnodes="$machines" --node-rank="$machine" --nproc-per-node="$processes" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${MASTER_PORT:-29500}" \
    -- fit --config "$config" \
    --trainer.num_nodes="$machines" --trainer.devices="$processes" "$@"
