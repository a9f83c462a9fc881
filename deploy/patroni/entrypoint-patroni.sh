#!/bin/bash
# What a member does before Patroni takes over, and what it is asked from outside while it runs.
#
#   patroni   (PID 1) looks at the volume, lays out certificates, passwords and pg_hba.conf, then becomes Patroni
#   reload    takes up changed passwords and certificates, without a restart
#   healthy   succeeds when PostgreSQL runs
#
# Whatever it finds on the volume, it never has initdb run over data: data that some cluster made stays, and what is
# half-done is moved aside, with a message.
set -euo pipefail

# libpq looks for certificates in the home of whoever runs it.
export HOME=/var/lib/postgresql
readonly ROOT=/var/lib/postgresql DATA=/var/lib/postgresql/18/main REPO=/var/lib/pgbackrest
readonly RUN=/run/pg-ha SECRETS=/run/secrets LIBRARY=/usr/local/lib/pg-ha
# Less than this free, and PostgreSQL could not even write one WAL segment and its checkpoint.
readonly LEAST_FREE_MIB=48

say() { echo "pg-ha: $*"; }
fail() { echo "pg-ha: $*" >&2; exit 1; }
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
secret() { # name
    [ -s "$SECRETS/$1" ] || fail "the secret $SECRETS/$1 is missing or empty"
    cat "$SECRETS/$1"
}

check_settings() {
    [[ ${PATRONI_NAME:-} =~ ^[a-z0-9][a-z0-9-]*$ ]] || fail "PATRONI_NAME must be the member's name, such as pg-node-1"
    : "${PATRONI_ETCD3_HOSTS:?must name the etcd endpoints, such as etcd-1:2379,etcd-2:2379,etcd-3:2379}"
    : "${PGHA_NETWORK:?must be the network that members and proxies are in, such as 172.20.0.0/16}"
}

check_space() {
    local free
    free=$(df -BM --output=avail "$ROOT" | tail -n 1 | tr -dc 0-9)
    [ "$free" -ge "$LEAST_FREE_MIB" ] ||
        fail "the volume at $ROOT is full: $free MiB free, $LEAST_FREE_MIB needed. Nothing was changed on it. Make room" \
            "or a larger volume; never delete in pg_wal. The member is tried again until then."
}

# Data that no server ever ran on: a clone or an initdb that was cut short.
set_aside() { # why
    say "$DATA is $1: moved to $DATA.incomplete, to be deleted when nobody wants to look at it"
    rm -rf "$DATA.incomplete"
    mv "$DATA" "$DATA.incomplete"
}

check_data() {
    install -d -o postgres -g postgres -m 755 "$ROOT" "$ROOT/18"
    if [ -e "$ROOT/bootstrapping" ]; then
        # bootstrap.sh writes the mark before initdb, post-bootstrap.sh takes it away when all that belongs in is there.
        say "this member was making the new cluster and did not get to its end"
        [ ! -e "$DATA" ] || set_aside "half-made"
        as_postgres "$LIBRARY/etcd.py" unlock-bootstrap
        rm "$ROOT/bootstrapping"
    elif [ -e "$DATA/global/pg_control" ]; then
        local version
        version=$(cat "$DATA/PG_VERSION" 2>/dev/null || echo unknown)
        [ "$version" = 18 ] ||
            fail "$DATA was made by PostgreSQL $version, this image has 18. Nothing was changed. Take the image of before, or pg_upgrade"
        say "found data of $(pg_controldata "$DATA" | sed -n 's/^Database cluster state: *//p'), system $(system_id)"
    elif [ -d "$DATA" ] && [ -n "$(ls -A "$DATA")" ]; then
        set_aside "incomplete (no global/pg_control), as a clone leaves it that was cut short"
    fi
    install -d -o postgres -g postgres -m 700 "$DATA"
    [ "$(stat -c %U "$DATA/PG_VERSION" 2>/dev/null || echo postgres)" = postgres ] || chown -R postgres:postgres "$DATA"
}
system_id() { pg_controldata "$DATA" | sed -n 's/^Database system identifier: *//p'; }

# Certificates, passwords and pg_hba.conf where the user postgres alone reads them, outside of the volume.
lay_out() {
    install -d -o postgres -g postgres -m 700 "$RUN" "$RUN/patroni"
    secret ca.crt | place ca.crt
    secret "$PATRONI_NAME.pem" | place node.pem
    sed "s|@NETWORK@|$PGHA_NETWORK|" /etc/pg-ha/pg_hba.conf.template | place pg_hba.conf
    place patroni/10-patroni.yml </etc/pg-ha/patroni.yml
    # JSON strings are YAML strings.
    place patroni/20-member.yml <<YAML
name: $PATRONI_NAME
restapi: {connect_address: "$PATRONI_NAME:8008", authentication: {username: patroni, password: $(quoted patroni-api-password)}}
etcd3: {hosts: "$PATRONI_ETCD3_HOSTS", username: patroni, password: $(quoted etcd-patroni-password)}
postgresql:
  connect_address: "$PATRONI_NAME:5432"
  authentication:
    replication: {password: $(quoted replication-password)}
    rewind: {password: $(quoted rewind-password)}
YAML
}
place() { install -o postgres -g postgres -m 600 /dev/stdin "$RUN/$1.new" && mv "$RUN/$1.new" "$RUN/$1"; }
quoted() { secret "$1" | python3 -c 'import json, sys; print(json.dumps(sys.stdin.read().strip()))'; }

run() {
    check_settings
    check_space
    lay_out
    if [ "$(stat -c %U "$REPO")" != postgres ]; then chown postgres:postgres "$REPO" && chmod 750 "$REPO"; fi
    # What `deploy/cluster restore` and `replace` ask for, kept on the volume until it is done.
    if [ -e "$ROOT/restore.request" ]; then as_postgres "$LIBRARY/restore.sh" "$ROOT/restore.request" "$DATA"; fi
    if [ -e "$ROOT/empty.request" ]; then
        say "asked to come back from the backup: deleting $DATA"
        rm -rf "$DATA" "$ROOT/empty.request"
    fi
    check_data
    # Backups when they are due, on the member that leads, and their age as a metric.
    (while :; do as_postgres "$LIBRARY/backups.py" || sleep 30; done) &
    exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all patroni "$RUN/patroni"
}

reload() {
    lay_out
    # Patroni as PID 1 hands the signal on to its own child; PostgreSQL is reloaded by Patroni.
    kill -HUP 1
    say "$PATRONI_NAME: reloaded"
}

healthy() {
    curl -fsS -o /dev/null --max-time 4 --cacert "$RUN/ca.crt" --cert "$RUN/node.pem" \
        --resolve "$PATRONI_NAME:8008:127.0.0.1" "https://$PATRONI_NAME:8008/${1:-health}"
}

case "${1:-patroni}" in
    patroni) run ;;
    reload) check_settings; reload ;;
    healthy) healthy "${2:-}" ;;
    *) exec "$@" ;;
esac
