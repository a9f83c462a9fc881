#!/bin/bash
# Patroni's bootstrap method: initdb, once in a cluster's life. Run by one member, which holds the `initialize` key.
set -euo pipefail
DATA=/var/lib/postgresql/18/main
fail() { echo "pg-ha: $*" >&2; exit 1; }

[ ! -e "$DATA/PG_VERSION" ] || fail "$DATA holds data: no initdb over it"
# A repository with backups means that this cluster has lived: the members with data have to lead, not an empty one.
backups=$(pgbackrest --stanza=pg-ha --output=json info | python3 -c '
import json, sys
print(sum(len(stanza.get("backup", [])) for stanza in json.load(sys.stdin)))')
[ "$backups" = 0 ] || [ "${PGHA_NEW_CLUSTER:-}" = yes ] ||
    fail "the backup repository holds $backups backups of a cluster that lived before: no new one is made beside it." \
        "Start the members that have its data, or bring it back with deploy/cluster restore, or empty the volume" \
        "pgbackrest-repo (or set PGHA_NEW_CLUSTER=yes) if it is really to be a new one"

touch /var/lib/postgresql/bootstrapping
sync /var/lib/postgresql
exec initdb --pgdata="$DATA" --username=postgres --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 \
    --locale=C.UTF-8 --data-checksums --auth-local=peer --auth-host=scram-sha-256
