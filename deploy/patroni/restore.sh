#!/bin/bash
# Point-in-time recovery of the whole cluster, on the member that then leads: restore.sh REQUEST DATA. Called by
# entrypoint-patroni.sh before Patroni starts, while no other member runs. REQUEST holds arguments of
# `pgbackrest restore`, one a line, such as --type=time and --target=….
#
# The data of before is kept in DATA.before-restore. If anything fails it is put back, and the member starts with it.
set -euo pipefail
request=$1 data=$2
kept=$data.before-restore
say() { echo "pg-ha: restore: $*"; }

mapfile -t arguments <"$request"
say "pgbackrest restore ${arguments[*]}"
if [ -e "$kept" ] && [ -e "$kept/restoring" ]; then
    say "an earlier try was cut short: starting over"
    rm -rf "$data"
else
    rm -rf "$kept"
    if [ -e "$data" ]; then mv "$data" "$kept"; else mkdir -m 700 "$kept"; fi
    touch "$kept/restoring"
fi
mkdir -m 700 "$data"

put_back() {
    say "failed, see above: the cluster goes on with the data of before"
    pg_ctl -D "$data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$data"
    mv "$kept" "$data"
    rm -f "$data/restoring" "$request"
    trap - EXIT
    exit 0
}
trap put_back EXIT

pgbackrest --stanza=pg-ha "${arguments[@]}" --target-action=promote restore

# PostgreSQL replays up to the target and begins a new timeline, reachable for nobody else.
socket=$(mktemp -d)
echo 'local all postgres peer' >"$socket/pg_hba.conf"
pg_ctl -D "$data" -w -t 86400 -l "$socket/log" start -o "-c listen_addresses='' -c unix_socket_directories='$socket' \
    -c hba_file='$socket/pg_hba.conf' -c ssl=off -c synchronous_standby_names='' -c hot_standby=on" ||
    { cat "$socket/log" >&2; exit 1; }
ask() { psql -X -A -t -q -h "$socket" -d postgres -c "$1"; }
until [ "$(ask 'SELECT pg_is_in_recovery()')" = f ]; do
    pg_ctl -D "$data" status >/dev/null || { cat "$socket/log" >&2; exit 1; }
    sleep 0.5
done
grep -E 'recovery stopping|last completed transaction' "$socket/log" || true
ask CHECKPOINT >/dev/null
pg_ctl -D "$data" -w -m fast stop >/dev/null
rm -rf "$socket"

# Patroni's keys tell of the cluster of before; it makes them anew from this data.
/usr/local/lib/pg-ha/etcd.py forget-cluster
trap - EXIT
rm -f "$request" "$kept/restoring"
say "done; the data of before is in $kept"
