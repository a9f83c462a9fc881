-- What the proxy needs in PostgreSQL. Run it as a superuser on the primary, in the database `postgres`; running it
-- again changes nothing. Both roles have no password: they log in with a client certificate (pg_hba.conf:
-- hostssl all pgha_lookup,pgha_monitor ADDRESS cert), or with one that you give them.

SET client_min_messages = warning;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'pgha_owner') THEN
        CREATE ROLE pgha_owner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'pgha_lookup') THEN
        CREATE ROLE pgha_lookup LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'pgha_monitor') THEN
        CREATE ROLE pgha_monitor LOGIN;
    END IF;
END
$$;

ALTER ROLE pgha_owner NOLOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE pgha_lookup LOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE pgha_monitor LOGIN NOSUPERUSER INHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE pgha_lookup SET search_path = '';
ALTER ROLE pgha_lookup SET default_transaction_read_only = on;
ALTER ROLE pgha_lookup SET statement_timeout = '5s';
ALTER ROLE pgha_monitor SET search_path = '';
GRANT pg_monitor TO pgha_monitor;

CREATE SCHEMA IF NOT EXISTS pgha;
REVOKE ALL ON SCHEMA pgha FROM PUBLIC;
GRANT USAGE ON SCHEMA pgha TO pgha_lookup;

-- The function runs as a role that can read these columns and nothing else, not as a superuser.
GRANT SELECT (oid, rolname, rolpassword, rolcanlogin, rolvaliduntil, rolconnlimit, rolsuper, rolreplication)
    ON pg_catalog.pg_authid TO pgha_owner;

-- The verifier of one role and what decides whether it may log in; no row for an unknown one. `valid_until` is in
-- seconds since 1970, 'Infinity' and NULL for no end; a `connection_limit` of -1 is none.
CREATE OR REPLACE FUNCTION pgha.verifier(role text)
RETURNS TABLE (
    name text,
    verifier text,
    can_login boolean,
    valid_until double precision,
    connection_limit integer,
    is_superuser boolean,
    is_replication boolean
)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.rolname::pg_catalog.text,
           a.rolpassword,
           a.rolcanlogin,
           pg_catalog.date_part('epoch', a.rolvaliduntil),
           a.rolconnlimit,
           a.rolsuper,
           a.rolreplication
      FROM pg_catalog.pg_authid AS a
     WHERE a.rolname::pg_catalog.text OPERATOR(pg_catalog.=) $1
$$;

ALTER FUNCTION pgha.verifier(text) OWNER TO pgha_owner;
REVOKE ALL ON FUNCTION pgha.verifier(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgha.verifier(text) TO pgha_lookup;
