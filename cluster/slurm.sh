#!/usr/bin/env bash
# Analyze one archive on nodes of a Slurm cluster: start a head on the first node and workers on all, run the job, stop.
#
#   sbatch --nodes=4 cluster/slurm.sh /scratch/videos --lake /scratch/lake
#
# The options are those of `actionlake analyze`. Activate the environment with actionlake[cluster] before you submit,
# or name it in $ACTIONLAKE_ENV. The environment, the videos and the lake must be on a file system that all nodes see.
# If the time limit ends the job, submit the same command again to resume it.
# Checked: by `bash -n` and by running it with an `srun` that starts its command on this machine (tests/remote); not on a
# real Slurm.
#SBATCH --job-name=actionlake
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [ -n "${ACTIONLAKE_ENV:-}" ]; then PATH=$ACTIONLAKE_ENV/bin:$PATH; fi
CPUS=${SLURM_CPUS_ON_NODE:-$(nproc)}
PORT=$((20000 + SLURM_JOB_ID % 20000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# Ray refuses clients without this token. It is in no command line, where other users of the nodes could read it.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN
# When the job is over, Ray stops without waiting.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

start() { srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" ray start --block --num-cpus="$CPUS" "${@:2}" & }

start "$head" --head --port="$PORT" --include-dashboard=false
until ray health-check --address "$head:$PORT" 2>/dev/null; do
    kill -0 $! || { echo "the head on $head did not start" >&2; exit 1; }
    sleep 1
done
for node in "${nodes[@]:1}"; do start "$node" --address="$head:$PORT"; done

# The job starts at once. Workers on nodes that are still starting join it later.
# Slurm sends a warning two minutes before the time limit. It ends the job as Ctrl-C would.
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    actionlake analyze --address "$head:$PORT" --workers $((CPUS * ${#nodes[@]})) "$@" &
job=$!
trap 'kill -TERM $job' TERM
code=0
wait $job || code=$?
trap - TERM
kill $(jobs -p) 2>/dev/null || true
wait
exit "$code"
