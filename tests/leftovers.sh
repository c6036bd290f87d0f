#!/bin/sh
# Prints all that a cluster could leave behind on this machine. `make test` compares it before the
# cluster's start and after its end: the two have to be equal. Needs no program that the cluster's
# start installs.
set -eu
echo "# mounts"
awk '{print $5}' /proc/self/mountinfo | sort
echo "# links"
ls /sys/class/net
echo "# network namespaces"
ls /run/netns 2>/dev/null || true
echo "# nft tables"
nft list tables 2>/dev/null | sort
echo "# sysctls"
(cd /proc/sys && grep -H . net/ipv4/ip_forward net/ipv4/conf/all/route_localnet fs/inotify/*)
echo "# cgroups"
find /sys/fs/cgroup -name '*deis*' -prune | sort
echo "# processes"
# The dead that PID 1 has not reaped yet are no processes any more.
ps -eo stat=,args= | grep -v '^Z' | cut -d' ' -f2- | grep -E '[s]ystemd-nspawn|[d]eis-local/|[c]luster forward' | sort || true
