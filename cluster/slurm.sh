#!/usr/bin/env bash
# One archive on nodes of a Slurm cluster: a head on the first, workers on all, the job, and all of it gone afterwards.
#
#   sbatch --nodes=4 cluster/slurm.sh /scratch/videos --lake /scratch/lake
#
# The options are those of `actionlake analyze`. The environment that holds actionlake[cluster] has to be active where this
# is submitted, or is named by $ACTIONLAKE_ENV; it, the videos and the lake have to be on a file system that all nodes see.
# If the time is up before the job is done, the same command goes on from there.
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
# Whoever has no token is refused; nobody else on the nodes can read it from a command line.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN
# When the job is over nothing has to be waited for.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

start() { srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" ray start --block --num-cpus="$CPUS" "${@:2}" & }

start "$head" --head --port="$PORT" --include-dashboard=false
until ray health-check --address "$head:$PORT" 2>/dev/null; do
    kill -0 $! || { echo "the head on $head did not start" >&2; exit 1; }
    sleep 1
done
for node in "${nodes[@]:1}"; do start "$node" --address="$head:$PORT"; done

# It starts at once; the workers of nodes that are still on their way join it.
# Slurm's warning, two minutes before the time is up, ends the job as Ctrl-C would.
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
