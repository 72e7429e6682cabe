#!/usr/bin/env bash
# A Slurm cluster of one node and two pretended GPUs, for tests. It needs root, slurm-wlm and munge; no systemd, cgroups
# or database. All its files lie in one folder, and its ports are free ones, so that several can run beside each other.
#
#   slurm.sh start FOLDER     then: source FOLDER/environment
#   slurm.sh stop FOLDER
set -euo pipefail
action=${1:?start or stop} folder=${2:?a folder}
umask 022
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export SLURM_CONF=$folder/slurm.conf

free_ports() { # as many as asked for
    python3 - "$1" <<'PYTHON'
import socket
import sys

sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

settings() {
    local node controller_port node_port
    node=$(hostname -s)
    read -r controller_port node_port < <(free_ports 2)
    # The node claims eight cores and much memory, whatever the machine has: the tests are about who gets what.
    cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=8 RealMemory=96000 Gres=gpu:pretended:2
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE
CONF
    # A device file makes Slurm hand out the GPU by its number; which file it is does not matter.
    printf 'Name=gpu Type=pretended File=%s\n' /dev/null /dev/zero > "$folder/gres.conf"
    # Snakemake's job steps start srun with a bare environment, which finds no configuration of its own.
    mkdir -p "$folder/bin" "$folder/controller" "$folder/node"
    printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
    chmod +x "$folder/bin/srun"
    printf 'export SLURM_CONF=%q PATH=%q:"$PATH"\n' "$SLURM_CONF" "$folder/bin" > "$folder/environment"
}

start() {
    settings
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --seed-file="$folder/munge.seed" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log"
    slurmctld
    slurmd
    for _ in $(seq 100); do
        if [ "$(sinfo --noheader --format=%t 2> "$folder/sinfo.log")" = idle ]; then return; fi
        sleep 0.3
    done
    tail -n 5 "$folder"/*.log >&2
    echo "the node did not come up" >&2
    return 1
}

stop() {
    local file
    timeout 10 scancel --quiet --user="$(id -un)" || true
    for file in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do
        if [ -s "$file" ]; then kill "$(cat "$file")" || true; fi
        for _ in $(seq 50); do if [ -e "$file" ]; then sleep 0.1; fi; done
    done
}

case $action in
    start) start ;;
    stop) stop ;;
    *) sed -n '2,7p' "$0" >&2 && exit 2 ;;
esac
