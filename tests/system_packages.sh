#!/usr/bin/env bash
# Programs that some tests drive: a Slurm of one node, and a browser. Installed where this is a Debian or Ubuntu machine,
# root runs it and they are missing; else those tests skip and say so. Never fails.
set -uo pipefail

wanted=()
if ! command -v slurmctld > /dev/null || ! command -v slurmd > /dev/null; then wanted+=(slurm-wlm); fi
if ! command -v munged > /dev/null; then wanted+=(munge); fi
if ! command -v chromium > /dev/null; then wanted+=(chromium); fi

if [ ${#wanted[@]} -eq 0 ]; then exit 0; fi
left="tests that need ${wanted[*]} will skip"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "system packages: not root, or no apt-get; $left"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
echo "system packages: installing ${wanted[*]}"
# One by one, so that what one system lacks does not take the others with it.
for package in "${wanted[@]}"; do
    if ! apt-get install -y -qq --no-install-recommends "$package" > /dev/null 2>&1; then
        apt-get update -qq > /dev/null 2>&1
        apt-get install -y -qq --no-install-recommends "$package" > /dev/null 2>&1 ||
            echo "system packages: $package cannot be installed; its tests will skip"
    fi
done
exit 0
