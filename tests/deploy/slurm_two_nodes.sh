#!/usr/bin/env bash
# Runs deploy/slurm/train.sbatch for real: a Slurm of two nodes on this machine, each in a network
# namespace with an address and a host name of its own. Needs root and Debian's slurm-wlm, iproute2.
#
#   bash tests/deploy/slurm_two_nodes.sh OUTPUT_DIR [FLAG of train …]
#
# Trains dreamer-debug on both nodes, is stopped by the signal that comes before a time limit, is
# submitted again, and ends. All daemons and namespaces are gone afterwards.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
names=(wmctl wmnode1 wmnode2)
pids=()

clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
    for name in "${names[@]}"; do
        ip netns pids "$name" 2> /dev/null | xargs -r kill -9
        ip netns del "$name" 2> /dev/null || true
    done
}
trap clean_up EXIT

# --- a network of three hosts: 10.77.0.1 (the controller, with the bridge), .2 and .3 (the nodes)
printf '%s\n' '127.0.0.1 localhost' '10.77.0.1 wmctl' '10.77.0.2 wmnode1' '10.77.0.3 wmnode2' \
    > "$out/hosts"
for name in "${names[@]}"; do
    mkdir -p "$out/$name"
    ip netns add "$name"
    ip -n "$name" link set lo up
done
ip -n wmctl link add bridge type bridge
ip -n wmctl addr add 10.77.0.1/24 dev bridge
ip -n wmctl link set bridge up
for i in 1 2; do
    ip -n wmctl link add "port$i" type veth peer name eth0 netns "wmnode$i"
    ip -n wmctl link set "port$i" master bridge up
    ip -n "wmnode$i" addr add "10.77.0.$((i + 1))/24" dev eth0
    ip -n "wmnode$i" link set eth0 up
done
# shellcheck disable=SC2016
on() { # HOST COMMAND …
    nsenter --net="/run/netns/$1" unshare --uts --mount bash -c \
        'hostname "$1"; mount --bind "$0" /etc/hosts; exec "${@:2}"' "$out/hosts" "$@"
}

# --- the daemons, with all their files under $out
head -c 1024 /dev/urandom > "$out/munge.key"
chmod 600 "$out/munge.key"
munged --foreground --force --key-file "$out/munge.key" --socket "$out/munge.socket" \
    --pid-file "$out/munge.pid" --log-file "$out/munge.log" --seed-file "$out/munge.seed" &
pids+=($!)
cat > "$out/slurm.conf" << CONF
ClusterName=two
SlurmctldHost=wmctl
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$out/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$out/wmctl
SlurmdSpoolDir=$out/%n
SlurmctldPidFile=$out/wmctl/pid
SlurmdPidFile=$out/%n/pid
SlurmctldLogFile=$out/wmctl/log
SlurmdLogFile=$out/%n/log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
ReturnToService=2
KillWait=15
SlurmdParameters=config_overrides
NodeName=wmnode[1-2] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$out/slurm.conf
on wmctl slurmctld -D &
pids+=($!)
for i in 1 2; do
    on "wmnode$i" slurmd -D &
    pids+=($!)
done
for _ in {1..60}; do
    on wmctl sinfo --noheader --format '%D %t' 2> /dev/null | grep '2 idle' && break
    sleep 1
done

# --- the batch script, twice
flags=("$@")
submit() {
    on wmctl env RUN_DIR="$out/run" PYTHONPATH="$repo" sbatch --parsable --nodes 2 \
        --output "$out/job.log" --chdir "$out" "$repo/deploy/slurm/train.sbatch" \
        dreamer-debug "${flags[@]}"
}
state() { on wmctl scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'; }
train_steps() {
    python -c 'import json, sys; print(json.load(open(sys.argv[1])).get("train_steps", 0))' \
        "$out/run/status.json" 2> /dev/null || echo 0
}
finished() { [[ ! $(state "$1") =~ PENDING|RUNNING|COMPLETING ]]; }
job=$(submit)
until (($(train_steps) > 0)) || finished "$job"; do sleep 2; done
on wmctl squeue --format '%i %T %D %N'
PYTHONPATH=$repo wm-distributed status "$out/run"
on wmctl scancel --batch --signal=TERM "$job"
until finished "$job"; do sleep 1; done
echo "stopped: job $job is $(state "$job") after $(train_steps) train steps"
job=$(submit)
until finished "$job"; do sleep 2; done
echo "resumed: job $job is $(state "$job") after $(train_steps) train steps"
[[ $(state "$job") == COMPLETED ]]
left=$(for name in wmnode1 wmnode2; do ip netns pids "$name"; done | xargs -r ps -o args= -p)
[[ $left != *raylet* ]]
