#!/bin/bash
# What a new cluster has from the start: the proxy's roles and function, the administrator, the database, extensions,
# the UI's role, the sample table, and the backup stanza. Patroni calls it with a connection string as argument; all of
# it can be run again.
set -euo pipefail
connection=$1
SECRETS=/run/secrets
# As psql quotes: in single quotes, with ' and \ doubled.
secret() { sed -e 's/\\/\\\\/g' -e "s/'/''/g" "$SECRETS/$1"; }
run() { psql -X -q -v ON_ERROR_STOP=1 "$@"; }

# Passwords go by psql variables from standard input: neither arguments nor the server's log show them.
{
    printf "\\\\set user '%s'\n\\\\set database '%s'\n" "$POSTGRES_USER" "$POSTGRES_DB"
    printf "\\\\set password '%s'\n\\\\set dbhub_password '%s'\n" "$(secret postgres-password)" "$(secret dbhub-password)"
    cat <<'SQL'
SET log_min_error_statement = panic;
SET log_statement = none;
SET client_min_messages = warning;
\i /etc/pg-ha/roles.sql
SELECT format('CREATE ROLE %I', :'user') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
ALTER ROLE :"user" LOGIN SUPERUSER PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'user')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SELECT 'CREATE ROLE dbhub' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dbhub') \gexec
ALTER ROLE dbhub LOGIN PASSWORD :'dbhub_password';
SELECT 'CREATE DATABASE dbhub OWNER dbhub' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'dbhub') \gexec
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
\connect :"database"
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
SQL
    if [ "${PGHA_SAMPLE_DATA:-on}" = on ]; then echo 'SET SESSION AUTHORIZATION :"user"; \i /etc/pg-ha/init-pgvector-ha.sql'; fi
} | run "$connection"

pgbackrest --stanza=pg-ha stanza-create
rm -f /var/lib/postgresql/bootstrapping
