#!/bin/sh
# Before any container runs on this boot:
# - podman's database and the containers' config.json, which repeat config values, go to tmpfs;
# - layers of containers that a crash cut off go: podman forgot them, its images stay.
set -eu
storage=/var/lib/containers/storage
lost=
for part in libpod overlay-containers; do
    dir=$storage/$part
    mkdir -p "$dir"
    mountpoint -q "$dir" && continue
    lost=yes
    find "$dir" -mindepth 1 -delete
    mount -t tmpfs -o mode=0700,size=256m,nr_inodes=200k "deis-$part" "$dir"
done

layers=$storage/overlay-layers/layers.json
images=$storage/overlay-images/images.json
[ -n "$lost" ] && [ -s "$layers" ] || exit 0
[ -s "$images" ] || echo '[]' >"$images"
orphans=$(jq -r --slurpfile images "$images" '
    (map({key: .id, value: (.parent // "")}) | from_entries) as $parent
    | def chain: if . == null or . == "" then empty else ., ($parent[.] | chain) end;
    ([$images[0][] | (.layer // empty), (."mapped-layers" // [])[] | chain]) as $kept
    | map(.id) - $kept | .[]' "$layers")
[ -n "$orphans" ] || exit 0
for id in $orphans; do
    [ -r "$storage/overlay/$id/link" ] && rm -f "$storage/overlay/l/$(cat "$storage/overlay/$id/link")"
    rm -rf "$storage/overlay/$id" "$storage/overlay-layers/$id.tar-split.gz"
done
printf '%s\n' "$orphans" | jq -R . | jq -s . >"$storage/orphans.json"
jq -c --slurpfile orphans "$storage/orphans.json" 'map(select(.id as $id | $orphans[0] | index($id) | not))' \
    "$layers" >"$layers.new"
mv "$layers.new" "$layers"
rm -f "$storage/orphans.json"
echo "removed $(printf '%s\n' "$orphans" | wc -l) layers of containers that are no more"
