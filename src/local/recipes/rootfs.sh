#!/bin/sh
# Makes the root file system that every host of a local cluster has an overlay of.
#   rootfs.sh TARGET SOURCES APTCONF
# TARGET is made by this script; SOURCES is a sources.list and APTCONF an apt.conf
# of this machine, used for the download only.
set -eu
target=$1 sources=$2 aptconf=$3

packages="systemd,systemd-sysv,dbus,libpam-systemd,libnss-myhostname"
packages="$packages,iproute2,iputils-ping,nftables,iptables,procps,less,jq,curl,ca-certificates,sudo"
packages="$packages,openssh-server,git,libssl3,libgcc-s1,python3-minimal"
packages="$packages,podman,catatonit,crun,netavark,aardvark-dns,fuse-overlayfs,docker-registry"
packages="$packages,etcd-server,etcd-client,cloud-init"

mmdebstrap --mode=root --variant=minbase --include="$packages" --aptopt="$aptconf" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    bookworm "$target" - <"$sources"

# How this machine reaches its mirror (proxies and the like) stays its own business; which mirror that
# is, the hosts need too.
rm -f "$target"/etc/apt/apt.conf.d/99mmdebstrap "$target"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -rf "$target"/var/lib/apt/lists/* "$target"/var/cache/apt/* "$target"/var/log/*.log "$target"/var/log/apt
rm -f "$target"/etc/apt/sources.list.d/*
cp "$sources" "$target"/etc/apt/sources.list
printf 'nameserver 127.0.0.1\n' >"$target"/etc/resolv.conf # each host gets its own
printf 'host\n' >"$target"/etc/hostname                    # this too
: >"$target"/etc/machine-id                                # and this
rm -f "$target"/etc/ssh/ssh_host_* "$target"/var/lib/dbus/machine-id

# Debian starts whatever it installs; Deis decides itself.
in_target() { chroot "$target" "$@"; }
for unit in docker-registry.service etcd.service podman.service podman.socket podman-auto-update.timer \
    podman-auto-update.service podman-restart.service podman-clean-transient.service nftables.service; do
    in_target systemctl disable "$unit" >/dev/null 2>&1 || true
done
for unit in docker-registry.service etcd.service console-getty.service getty.target \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    systemd-firstboot.service systemd-resolved.service systemd-journal-flush.service \
    cloud-init-hotplugd.socket ssh.socket systemd-update-utmp.service \
    systemd-udev-trigger.service systemd-udevd.service; do
    in_target systemctl mask "$unit" >/dev/null 2>&1 || true
done
in_target systemctl enable ssh.service systemd-networkd.service systemd-networkd-wait-online.service >/dev/null 2>&1
in_target systemctl set-default multi-user.target >/dev/null 2>&1

# The journal of a test host is for reading now, not for years.
mkdir -p "$target"/etc/systemd/journald.conf.d "$target"/etc/systemd/network
cat >"$target"/etc/systemd/journald.conf.d/deis.conf <<'CONF'
[Journal]
Storage=volatile
RuntimeMaxUse=64M
RateLimitIntervalSec=0
CONF
mkdir -p "$target"/etc/systemd/system.conf.d
cat >"$target"/etc/systemd/system.conf.d/deis.conf <<'CONF'
[Manager]
DefaultTimeoutStopSec=30s
DefaultCPUAccounting=yes
DefaultMemoryAccounting=yes
DefaultTasksAccounting=yes
CONF

# cloud-init does what our user-data needs and nothing else: it is on the way of every boot.
cat >"$target"/etc/cloud/cloud.cfg.d/90-deis-local.cfg <<'CFG'
datasource_list: [NoCloud, None]
locale: false
apt_preserve_sources_list: true
manage_etc_hosts: false
preserve_hostname: true
ssh_deletekeys: false
disable_root: false
network: {config: disabled}
cloud_init_modules: [write-files, users-groups]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
CFG
rm -f "$target"/etc/cloud/ds-identify.cfg
