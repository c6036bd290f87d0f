#!/bin/sh
# Makes the tree of the stack image: what apps are built in and run on.
#   stack.sh TARGET SOURCES APTCONF
# (as rootfs.sh). The result holds nothing of this machine and no clock.
set -eu
target=$1 sources=$2 aptconf=$3
packages="ca-certificates,curl,git,tzdata,media-types,procps,unzip,xz-utils"
packages="$packages,python3,python3-venv,python3-pip,libssl3,libpq5,libsqlite3-0,libffi8"

mmdebstrap --mode=root --variant=minbase --include="$packages" --aptopt="$aptconf" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
    --dpkgopt='path-exclude=/usr/share/zsh/*' \
    bookworm "$target" - <"$sources"

rm -f "$target"/etc/apt/apt.conf.d/99mmdebstrap "$target"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f "$target"/etc/apt/sources.list.d/*
cp "$sources" "$target"/etc/apt/sources.list
rm -rf "$target"/var/lib/apt/lists/* "$target"/var/cache/* "$target"/var/log/* "$target"/tmp/* "$target"/run/*
mkdir -p "$target"/var/cache/apt/archives/partial "$target"/var/lib/apt/lists/partial
rm -f "$target"/etc/machine-id "$target"/var/lib/dbus/machine-id "$target"/etc/resolv.conf "$target"/etc/hostname
: >"$target"/etc/machine-id
# Shadow dates and backups differ from day to day and say nothing.
rm -f "$target"/etc/*- "$target"/var/lib/dpkg/*-old "$target"/var/lib/dpkg/lock* "$target"/var/lib/dpkg/triggers/Lock
find "$target"/usr -depth -name __pycache__ -type d -exec rm -rf {} +
# The image belongs to its app: pip may install where it likes.
rm -f "$target"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 "$target"/usr/bin/python
# Layers have no clock, so compiled modules are marked as always current: an app can't write its own.
chroot "$target" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.11 || true

mkdir -p "$target"/app
printf 'app:x:2000:\n' >>"$target"/etc/group
printf 'app:!::\n' >>"$target"/etc/gshadow
printf 'app:x:2000:2000:app:/app:/bin/bash\n' >>"$target"/etc/passwd
printf 'app:!:19000:0:99999:7:::\n' >>"$target"/etc/shadow
sed -i -E 's/^([^:]*:[^:]*):[0-9]+:/\1:19000:/' "$target"/etc/shadow
chown 2000:2000 "$target"/app

cat >"$target"/usr/local/bin/deis-init <<'INIT'
#!/bin/bash
# Starts one process of an app: deis-init 'COMMAND LINE'
export HOME=/app
cd /app || exit 126
for profile in /app/.profile.d/*.sh; do
    # shellcheck source=/dev/null
    [ -r "$profile" ] && . "$profile"
done
exec bash -c "$1"
INIT
chmod 755 "$target"/usr/local/bin/deis-init
