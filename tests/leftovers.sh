#!/bin/sh
# Prints all that a cluster could leave behind on this machine. `make test` compares it before the
# cluster's start and after its end: the two have to be equal.
set -eu
echo "# mounts"
awk '{print $5}' /proc/self/mountinfo | sort
echo "# links"
ip -o link | awk -F': ' '{print $2}' | sort
echo "# network namespaces"
ip netns list | awk '{print $1}' | sort
echo "# nft tables"
nft list tables 2>/dev/null | sort
echo "# sysctls"
sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet fs.inotify
echo "# cgroups"
find /sys/fs/cgroup -name '*deis*' -prune | sort
echo "# processes"
ps -eo args | grep -E '[s]ystemd-nspawn|[d]eis-local/|[c]luster forward' | sort || true
