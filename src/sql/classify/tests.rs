//! What statements are: tables of cases, and what must hold for any text.

use super::super::functions::Volatility;
use super::super::{ConsistencyHint, Encoding, Hint, TransactionModes};
use super::*;

thread_local!(static BUILTIN: Functions = Functions::builtin());

fn verdict(text: &str) -> Verdict {
    BUILTIN.with(|functions| classify(text.as_bytes(), &Lexing::default(), functions))
}

fn expect(class: Class, texts: &[&str]) {
    for text in texts {
        let verdict = verdict(text);
        assert_eq!(verdict.class, class, "{text}: {}", verdict.reason);
    }
}

fn expect_write(cases: &[(&str, &str)]) {
    for (text, reason) in cases {
        let verdict = verdict(text);
        assert_eq!((verdict.class, &*verdict.reason), (Class::Write, *reason), "{text}");
    }
}

#[test]
fn reads() {
    expect(
        Class::Read,
        &[
            "select 1",
            "SELECT * FROM t WHERE id = $1 ORDER BY a LIMIT 10 OFFSET 5",
            "(select 1) union all (select 2) order by 1",
            "values (1, 'a'), (2, lower('B'))",
            "table t",
            "with x as (select 1) select * from x",
            "with recursive x(a, b) as (select 1, 2 union all select a + 1, b from x) select * from x",
            "with x(a) as materialized (select 1), y(b) as not materialized (select 2) select * from x, y",
            "with recursive t(a) as (select 1) search depth first by a set o, u(b) as (select 2) select 1",
            "select count(*) filter (where a > 0), sum(x) over (partition by y order by z) from t",
            "select rank() over w from t window w as (order by a)",
            "select percentile_cont(0.5) within group (order by x) from t",
            "select * from (values (1, 2)) as v(a, b)",
            "select * from (values (1, 2)) v(a, b) join (select 1) w(c) on (v.a = w.c)",
            "select * from unnest(array[1,2]) with ordinality as u(x, n)",
            "select * from json_to_recordset('[]') as x(a int, b varchar(10), c numeric(10, 2), v vector(3))",
            "select * from a left join lateral (select 1) l(x) on true join (select 2) m using (id)",
            "select cast(a as vector(3)), b::numeric(10,2), c::character varying(20), d::public.vector(3)",
            "select distinct on (a) lower(b), a from t",
            "select a, b from t group by grouping sets ((a), (b), rollup (a), cube (a, b))",
            "select extract(year from now()), coalesce(a, b), nullif(a, ''), greatest(1, 2) from t",
            "select substring(a from 2 for 3), overlay(a placing b from 1 for 2), trim(both 'x' from a) from t",
            "select case when a in (1, 2) and exists (select 1) then any_value(b) else null end from t group by a",
            "select random(), clock_timestamp(), gen_random_uuid(), uuidv7(), pg_sleep(1)",
            "select current_user, session_user, current_timestamp, current_catalog, localtime(3)",
            "select pg_catalog.lower('A'), \"lower\"('a'), LOWER('a'), lower ( 'a' ), lower/* c */('a')",
            "select lo_get(1), nextval from t",
            "select read, update, delete, insert from permissions",
            "select p.update, p.into, p.\"for\" from p",
            "select 'insert into t', $$ nextval('s') $$, \"nextval\" from t -- for update",
            "select * from pg_class, pg_stats where relname = 't'",
            "select current_setting('app.user_id'), current_setting('search_path', true)",
            "select setting from pg_settings where name = 'work_mem'",
            "select * from json_table('[1]', '$[*]' columns (id for ordinality, a int path '$', nested path '$' columns (b text path '$')))",
            "select * from t tablesample bernoulli (10) repeatable (1)",
            "select * from rows from (generate_series(1, 2), unnest(array[1])) as r(a, b)",
            "select interval '1' second(3), interval(3) '1', time(3) '10:00', bit(3) '101'",
            "select x at time zone ('utc') from t",
            "select a like ('%' || b), a ilike ('x') from t",
            "select a fetch from t fetch first 5 rows with ties",
            "select similarity(a, b), word_similarity(a, b), digest('x', 'sha256'), earth_distance(a, b)",
            "select l2_distance(a, b), cosine_distance(a, b), vector_dims(a) from t",
            "select regproc('now'), regtype('int4'), inet(a), uuid(b), jsonb(c), tsvector(d) from t",
            "select 1 as U&\"d\\0061ta\", cast(a as U&\"t\") from t as U&\"!0061\" uescape '!'",
            "select; select 2;;",
            "/* c */ select 1 -- d",
        ],
    );
}

/// Shapes of what drivers and tools send to look at a catalog.
#[test]
fn what_drivers_send_to_look_around() {
    expect(
        Class::Read,
        &[
            "WITH RECURSIVE typeinfo_tree(oid, ns, name, kind, depth) AS (SELECT ti.oid, ti.ns, ti.name, ti.kind, 0 \
             FROM (SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS name, t.typtype AS kind, \
             (CASE WHEN t.typtype = 'd' THEN (WITH RECURSIVE typebases(oid, depth) AS (SELECT t2.typbasetype AS oid, 0 \
             AS depth FROM pg_type t2 WHERE t2.oid = t.oid UNION ALL SELECT t2.typbasetype AS oid, tb.depth + 1 \
             FROM pg_type t2, typebases tb WHERE tb.oid = t2.oid AND t2.typbasetype != 0) SELECT oid FROM typebases \
             ORDER BY depth DESC LIMIT 1) ELSE NULL END) AS basetype FROM pg_catalog.pg_type AS t) AS ti \
             WHERE ti.oid = any($1::oid[]) UNION ALL SELECT ti.oid, ti.ns, ti.name, ti.kind, tt.depth + 1 \
             FROM pg_type ti, typeinfo_tree tt WHERE ti.oid = tt.oid) SELECT DISTINCT *, basetype::regtype::text \
             AS basetype_name FROM typeinfo_tree ORDER BY depth DESC",
            "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default \
             AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3",
            "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), (SELECT pg_catalog.pg_get_expr(d.adbin, \
             d.adrelid, true) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND a.atthasdef), \
             pg_catalog.array_to_string(ARRAY(SELECT x FROM pg_catalog.unnest(a.attacl) AS u(x)), E'\\n') \
             FROM pg_catalog.pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped",
            "select pg_catalog.version()",
            "SELECT set_masklen('1.2.3.4'::cidr, 8), t.typname::text FROM pg_type t JOIN (VALUES (1, 'a')) v (i, n) ON true",
            "SELECT \"auth_user\".\"id\" FROM \"auth_user\" WHERE \"auth_user\".\"id\" = 1 LIMIT 21",
        ],
    );
    expect(
        Class::Write,
        &["select set_config('jit', $1, false)", "select pg_catalog.set_config('search_path', '', false)"],
    );
}

#[test]
fn what_is_kept_is_bounded() {
    let many = "set a = 1; listen c;".repeat(2000);
    let verdict = verdict(&many);
    assert_eq!((verdict.settings.len(), verdict.channels.len()), (1000, 1000));
    assert!(verdict.effects.contains(Effects::SET_CONFIG));
}

#[test]
fn vector_reads() {
    expect(
        Class::VectorRead,
        &[
            "select id from items order by embedding <-> '[1,2,3]' limit 5",
            "select id from items order by embedding <=> $1",
            "select id from items order by embedding<#>a",
            "select id from items order by a <+> b, c <~> d, e <%> f",
            "select id from items order by embedding operator(public.<->) '[1]'",
            "explain select id from items order by embedding <-> '[1]'",
            "copy (select id from items order by embedding <-> '[1]') to stdout",
            "select 1; select id from items order by embedding <-> '[1]'",
        ],
    );
    expect(
        Class::Read,
        &[
            "select '<->'",
            "select 1 -- <->",
            "select a <->> b, a <<->> b, a %> b from t",
            "select \"<->\" from t",
            "select a <#>-1",
        ],
    );
    expect(Class::Write, &["select a <-> b from t for update", "delete from t where a <-> b < 1"]);
}

#[test]
fn writes_by_what_the_text_shows() {
    expect_write(&[
        ("insert into t values (1)", "INSERT"),
        ("INSERT INTO t (a, b) SELECT 1, 2 ON CONFLICT (a) DO UPDATE SET (a, b) = (1, 2)", "INSERT"),
        ("update only t set a = 1", "UPDATE"),
        ("delete from t", "DELETE"),
        ("merge into t using s on true when not matched then insert (a) values (1)", "MERGE"),
        ("merge into t using s on true when matched then do nothing", "MERGE"),
        ("with x as (insert into t values (1) returning *) select * from x", "INSERT"),
        ("with x as (delete from t returning *) select * from x", "DELETE"),
        ("with x as not materialized (update t set a = 1 returning *) select * from x", "UPDATE"),
        ("with x as (with y as (select 1) update t set a = 1 returning a) table x", "UPDATE"),
        ("with x as (select 1) update t set a = 1", "UPDATE"),
        ("with recursive x as (select 1 a) search depth first by a set o delete from t", "DELETE"),
        ("with recursive data as (select 1 a) cycle a set c using p update t set a = 1", "UPDATE"),
        ("with x as (select 1) /* c */ insert into t table x", "INSERT"),
        ("select 1 into t", "INTO"),
        ("select * into temp t from x", "INTO"),
        ("select * from t for update", "row lock"),
        ("select * from t for no key update", "row lock"),
        ("select * from t for share", "row lock"),
        ("select * from t for key share skip locked", "row lock"),
        ("select * from (select * from t for update) x", "row lock"),
        ("select nextval('s')", "nextval"),
        ("select pg_catalog . \"nextval\" ('s')", "nextval"),
        ("select \"public\".nextval/* c */\n('s')", "nextval"),
        ("select NextVal('s')", "nextval"),
        ("select lower(nextval('s')::text)", "nextval"),
        ("select my_function(1)", "my_function"),
        ("select \"My Function\"(1)", "My Function"),
        ("select x.coalesce(1)", "coalesce"),
        ("select value(1)", "value"),
        ("select join(1)", "join"),
        ("select rollup(1)", "rollup"),
        ("select 1 from t group by a having rollup(a)", "rollup"),
        ("select U&\"\\006eextval\"('s')", "U& name"),
        ("select distinct on (a) f(b) from t", "f"),
        ("select 1 operator(pg_catalog.+) f(2)", "f"),
        ("(select 1) order by 1, f(2)", "f"),
        ("with x as (select 1) (select 1) order by 1, f(2)", "f"),
        ("with x as (select 1) select 1, f(2) from x", "f"),
        ("select * from f(2) as (a int)", "f"),
        ("select * from a, f(2) as (a int)", "f"),
        ("select * from t where a = any (f(1))", "f"),
        ("select * from t limit f()", "f"),
        ("select a is distinct from f() from t", "f"),
        ("values (f(1))", "f"),
        ("select * from rows from (f(1)) as r(a)", "f"),
        ("select * from t, lateral f(t.a)", "f"),
        ("select * from t tablesample mine(10)", "mine"),
        ("select * from xmltable(f(1) passing a columns b int)", "f"),
        ("select ((((f(1)))))", "f"),
        ("select array[f(1)], row(f(1))", "f"),
        ("select 1, 2 and f(1)", "f"),
        ("select -f(1)", "f"),
        ("lock table t", "LOCK"),
        ("truncate t", "TRUNCATE"),
        ("vacuum", "VACUUM"),
        ("checkpoint", "CHECKPOINT"),
        ("alter system set work_mem = 1", "ALTER"),
        ("notify c, 'x'", "NOTIFY"),
        ("fetch all from c", "FETCH"),
        ("set constraints all deferred", "SET CONSTRAINTS"),
        ("selec 1", "not a statement: selec"),
        ("1", "not a statement: 1"),
        ("select 'a", "lexically broken"),
        ("select 1 /* a", "lexically broken"),
        ("select \u{0} 1", "lexically broken"),
        ("explain (costs \u{0} off) select 1", "lexically broken"),
        ("copy t \\ to stdout", "lexically broken"),
        ("select (1; insert into t values (1)", "syntax"),
        ("explain select (1; insert into t values (1)", "syntax"),
        ("copy (select 1) to stdout with (a; insert into t values (1)", "syntax"),
        ("select a as x, U&\"f\"(1)", "U& name"),
        ("select a as U&\"f\", U&\"f\"(1)", "U& name"),
        ("select 1; insert into t values (1); select f()", "INSERT"),
    ]);
}

/// What a standby was seen to answer and is yet for the primary, or to refuse.
#[test]
#[expect(clippy::too_many_lines, reason = "a list of cases")]
fn what_a_standby_would_answer_wrongly() {
    for call in [
        "pg_advisory_lock(1)",
        "pg_try_advisory_xact_lock_shared(1, 2)",
        "pg_advisory_unlock(1)",
        "pg_advisory_unlock_all()",
        "set_config('jit', 'off', false)",
        "setseed(0.5)",
        "set_limit(0.3)",
        "currval('s')",
        "lastval()",
        "pg_listening_channels()",
        "pg_my_temp_schema()",
        "pg_export_snapshot()",
        "pg_current_snapshot()",
        "txid_current_snapshot()",
        "txid_current_if_assigned()",
        "pg_current_xact_id_if_assigned()",
        "pg_is_in_recovery()",
        "pg_last_wal_replay_lsn()",
        "pg_last_xact_replay_timestamp()",
        "pg_control_system()",
        "pg_ls_waldir()",
        "pg_create_physical_replication_slot('s')",
        "pg_drop_replication_slot('s')",
        "pg_get_replication_slots()",
        "pg_sequence_last_value('s')",
        "pg_get_sequence_data('s')",
        "inet_server_addr()",
        "inet_client_port()",
        "pg_backend_pid()",
        "pg_postmaster_start_time()",
        "pg_conf_load_time()",
        "pg_blocking_pids(1)",
        "pg_terminate_backend(1)",
        "pg_cancel_backend(1)",
        "pg_reload_conf()",
        "pg_rotate_logfile()",
        "pg_log_backend_memory_contexts(1)",
        "pg_stat_reset()",
        "pg_prewarm('t')",
        "pg_buffercache_evict(1)",
        "lo_open(1, 2)",
        "loread(0, 1)",
        "lo_lseek(0, 0, 0)",
        "lo_tell(0)",
        "lo_export(1, 'f')",
        "pg_read_file('f')",
        "pg_ls_dir('.')",
        "pg_stat_file('f')",
        "dblink_exec('c', 'delete from t')",
        "postgres_fdw_disconnect_all()",
        "postgres_fdw_get_connections()",
        "nextval('s')",
        "setval('s', 1)",
        "pg_notify('c', '')",
        "txid_current()",
        "pg_current_xact_id()",
        "pg_current_wal_lsn()",
        "pg_walfile_name('0/0')",
        "pg_switch_wal()",
        "lo_create(0)",
        "pg_replication_origin_create('o')",
        "gin_clean_pending_list('i')",
        "brin_summarize_new_values('i')",
        "pg_restore_relation_stats('version', 1)",
        "pg_clear_relation_stats('s', 't')",
        "bt_index_parent_check('i')",
        "pg_logical_emit_message(false, '', '')",
        "query_to_xml('delete from t', true, true, '')",
        "ts_stat('select nextval(1)')",
        "crosstab('select f()')",
        "current_setting('in_hot_standby')",
        "current_setting('Transaction_Read_Only')",
        "current_setting($1)",
        "current_setting('in_hot' || '_standby')",
        "current_setting(U&'in_hot_standby')",
    ] {
        for text in [format!("select {call}"), format!("select a from t where exists (select 1 from {call})")]
        {
            assert_eq!(verdict(&text).class, Class::Write, "{text}");
        }
    }
    expect(
        Class::Write,
        &[
            "show transaction_read_only",
            "show in_hot_standby",
            "show all",
            "select last_value from my_seq",
            "select * from pg_sequences",
            "select * from pg_catalog.pg_stat_activity",
            "select * from \"pg_locks\"",
            "table pg_prepared_xacts",
            "select * from pg_settings",
            "select * from pg_settings where name = $1",
            "select * from pg_settings where name in ('work_mem', 'transaction_read_only')",
            "select * from pg_settings where name like '%standby'",
            "update pg_settings set setting = '1' where name = 'x'",
            "copy t to '/tmp/x'",
            "copy t to program 'x'",
            "copy pg_stat_activity to stdout",
            "lock table t in access share mode",
            "begin; select 1",
        ],
    );
}

#[test]
fn explain_counts_if_it_runs() {
    expect(
        Class::Read,
        &[
            "explain select 1",
            "explain insert into t values (nextval('s'))",
            "explain verbose delete from t",
            "explain (analyze off) insert into t values (1)",
            "explain (analyze 0, verbose) insert into t values (1)",
            "explain (analyze, analyze false) insert into t values (1)",
            "explain (verbose, costs off, analyze 'off') update t set a = 1",
            "explain select * from t for update",
            "explain (analyze) select 1",
            "explain (format json) (select 1)",
            "explain (select 1)",
            "explain ((select 1))",
            "explain create table x as select 1",
            "explain analyze select a from t",
        ],
    );
    expect(
        Class::Write,
        &[
            "explain analyze insert into t values (1)",
            "explain analyse verbose delete from t",
            "explain (analyze) insert into t values (1)",
            "explain (analyze off, analyze) insert into t values (1)",
            "explain create temp table x as select 1",
            "explain (costs off) create local temporary table x as select 1",
            "explain (costs off, \"analyze\" true, format json) delete from t",
            "explain (analyze -0) delete from t",
            "explain (U&\"an\\0061lyze\") delete from t",
            "explain (buffers, analyse 1) select f()",
            "explain analyze select nextval('s')",
            "explain analyze create table x as select 1",
            "explain execute p",
            "explain explain select 1",
            "explain analyze commit",
        ],
    );
    let route = verdict("explain (route) select nextval('s')");
    assert_eq!((route.class, route.explain_route), (Class::Session, Some(16)));
    assert!(verdict("explain (route off) select 1").explain_route.is_none());
    assert!(verdict("explain select nextval('s')").effects.is_empty());
}

#[test]
fn copies() {
    let copy = |text: &str| {
        let verdict = verdict(text);
        (verdict.class, verdict.copy)
    };
    let out = Some(CopyDirection::Out);
    for text in [
        "copy t to stdout",
        "copy public.t (a, b) to stdout with (format csv, force_quote (a))",
        "copy t to stdin",
        "copy (select a from t) to stdout",
        "copy binary t to stdout",
    ] {
        assert_eq!(copy(text), (Class::Read, out), "{text}");
    }
    assert_eq!(copy("copy (delete from t returning *) to stdout"), (Class::Write, out));
    assert_eq!(copy("copy (select nextval('s')) to stdout"), (Class::Write, out));
    assert_eq!(copy("copy t (a) from stdin with (format csv)"), (Class::Write, Some(CopyDirection::In)));
    assert_eq!(copy("copy t from stdout where a > 1"), (Class::Write, Some(CopyDirection::In)));
    assert_eq!(copy("copy t from '/f'"), (Class::Write, None));
    assert_eq!(copy("copy t to program 'cat'"), (Class::Write, None));
}

#[test]
fn transaction_verbs() {
    use TransactionVerb as V;
    let modes =
        |read_only, serializable, deferrable| TransactionModes { read_only, serializable, deferrable };
    let name = |name: &str| Box::<[u8]>::from(name.as_bytes());
    for (text, verb) in [
        ("begin", V::Begin(TransactionModes::default())),
        ("BEGIN WORK;", V::Begin(TransactionModes::default())),
        ("begin transaction read only", V::Begin(modes(Some(true), false, None))),
        (
            "start transaction isolation level serializable, read only, deferrable",
            V::Begin(modes(Some(true), true, Some(true))),
        ),
        (
            "begin isolation level repeatable read read write not deferrable",
            V::Begin(modes(Some(false), false, Some(false))),
        ),
        ("commit", V::Commit { chain: false }),
        ("end transaction and chain", V::Commit { chain: true }),
        ("commit and no chain", V::Commit { chain: false }),
        ("rollback", V::Rollback { chain: false }),
        ("abort work and chain", V::Rollback { chain: true }),
        ("savepoint A", V::Savepoint(name("a"))),
        ("savepoint \"A\"\"b\"", V::Savepoint(name("A\"b"))),
        ("rollback to savepoint a", V::RollbackTo(name("a"))),
        ("rollback work to a", V::RollbackTo(name("a"))),
        ("release a", V::Release(name("a"))),
        ("release savepoint a", V::Release(name("a"))),
        ("release savepoint", V::Release(name("savepoint"))),
        ("set transaction read only", V::Set(modes(Some(true), false, None))),
        ("set local transaction isolation level serializable", V::Set(modes(None, true, None))),
        ("set transaction_read_only = on", V::Set(modes(Some(true), false, None))),
        ("set transaction_isolation to 'serializable'", V::Set(modes(None, true, None))),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.transaction), (Class::Session, Some(verb)), "{text}");
        assert!(!verdict.mixed_transaction);
    }
    for text in ["prepare transaction 'x'", "commit prepared 'x'", "rollback prepared 'x'"] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.transaction), (Class::Write, Some(V::TwoPhase)), "{text}");
    }
    for text in [
        "begin nonsense",
        "commit and",
        "savepoint",
        "start",
        "begin isolation level",
        "rollback to",
        "commit x",
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.transaction), (Class::Write, None), "{text}");
    }
    for text in ["begin; select 1; commit", "select 1; commit", "savepoint a; release a"] {
        let verdict = verdict(text);
        assert!(verdict.mixed_transaction && verdict.transaction.is_none(), "{text}");
        assert_eq!(verdict.class, Class::Write, "{text}");
    }
    let snapshot = verdict("set transaction snapshot '0-1'");
    assert_eq!((snapshot.class, snapshot.transaction.is_some()), (Class::Write, true));
}

fn set(name: &str, value: &str, local: bool) -> SettingChange {
    SettingChange::Set { name: name.into(), value: value.as_bytes().into(), local }
}

fn reset(name: &str, local: bool) -> SettingChange {
    SettingChange::Reset { name: name.into(), local }
}

#[test]
fn settings() {
    for (text, change) in [
        ("set search_path to a, \"B\" , 'c'", set("search_path", "a, \"B\" , 'c'", false)),
        ("SET Work_Mem='64MB' ;", set("work_mem", "'64MB'", false)),
        ("set session a.B = -1 -- c", set("a.b", "-1", false)),
        ("set local a = on", set("a", "on", true)),
        ("set \"Foo\".bar to 1.5", set("foo.bar", "1.5", false)),
        ("set local a to default", reset("a", true)),
        ("set a = default", reset("a", false)),
        ("set role alice", set("role", "alice", false)),
        ("set local role none", set("role", "none", true)),
        ("set role = 'x'", set("role", "'x'", false)),
        ("set session authorization alice", set("session_authorization", "alice", false)),
        ("set session session authorization default", reset("session_authorization", false)),
        ("set local session authorization 'a'", set("session_authorization", "'a'", true)),
        ("set time zone 'UTC'", set("timezone", "'UTC'", false)),
        ("set time zone local", reset("timezone", false)),
        ("set time zone default", reset("timezone", false)),
        ("set local time zone -7", set("timezone", "-7", true)),
        ("set time zone interval '-08:00' hour to minute", set("timezone", "'INTERVAL ''-08:00'''", false)),
        ("set timezone to 'UTC'", set("timezone", "'UTC'", false)),
        ("set names 'utf8'", set("client_encoding", "'utf8'", false)),
        ("set names", reset("client_encoding", false)),
        ("set schema 'x'", set("search_path", "'x'", false)),
        ("set xml option document", set("xmloption", "document", false)),
        (
            "set session characteristics as transaction read only",
            set("default_transaction_read_only", "on", false),
        ),
        ("set pgha.route = 'primary'", set("pgha.route", "'primary'", false)),
        ("reset a.b", reset("a.b", false)),
        ("reset all", SettingChange::ResetAll),
        ("reset time zone", reset("timezone", false)),
        ("reset session authorization", reset("session_authorization", false)),
        ("reset role", reset("role", false)),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, &*verdict.settings), (Class::Session, &[change][..]), "{text}");
    }
    assert_eq!(
        &*verdict(
            "set session characteristics as transaction isolation level serializable, read write deferrable"
        )
        .settings,
        &[
            set("default_transaction_isolation", "'serializable'", false),
            set("default_transaction_read_only", "off", false),
            set("default_transaction_deferrable", "on", false),
        ]
    );
    let both = verdict("set a = 1; set b to 2; select 1");
    assert_eq!((both.class, both.statements, both.settings.len()), (Class::Session, 3, 2));
    for text in [
        "set",
        "set a",
        "set a =",
        "set a from current",
        "reset",
        "reset all x",
        "set seed to 1",
        "set a = 'x",
    ] {
        let verdict = verdict(text);
        assert_eq!(
            (verdict.class, verdict.settings.len()),
            (Class::Write, usize::from(text == "reset all x")),
            "{text}"
        );
    }
}

#[test]
fn shows() {
    for (text, name) in [
        ("show search_path", "search_path"),
        ("SHOW TimeZone;", "timezone"),
        ("show time zone", "timezone"),
        ("show transaction isolation level", "transaction_isolation"),
        ("show session authorization", "session_authorization"),
        ("show pgha.last", "pgha.last"),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.show.as_deref()), (Class::Session, Some(name)), "{text}");
    }
    assert_eq!(verdict("show all").show.as_deref(), Some("all"));
    assert_eq!(verdict("show a; show b").show, None);
}

#[test]
fn databases_that_are_wanted_alone() {
    use Effects as E;
    for (text, effects, object) in [
        ("drop database A", E::FREES_DATABASE, Some("a")),
        ("drop database if exists \"A\" with (force)", E::FREES_DATABASE, Some("A")),
        ("alter database a rename to b", E::FREES_DATABASE | E::DEFAULTS, Some("a")),
        ("create database a owner o template = B encoding 'UTF8'", E::FREES_DATABASE, Some("b")),
        ("create database a", E::FREES_DATABASE, None),
        ("alter role a set work_mem = 1", E::DEFAULTS, None),
        ("alter user a in database b reset all", E::DEFAULTS, None),
        ("drop role a", E::NONE, None),
        ("create table database (template int)", E::NONE, None),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.effects), (Class::Write, E::DDL | effects), "{text}");
        assert_eq!(verdict.object.as_deref(), object.map(str::as_bytes), "{text}");
    }
}

#[test]
fn a_definition_calls_nothing_yet() {
    use Effects as E;
    for (text, effect) in [
        ("create table t (a int default currval('s'))", E::DEFINES_CURRVAL),
        ("alter table t alter a set default currval('s')", E::DEFINES_CURRVAL),
        ("alter table t add a int default currval('s')", E::CURRVAL),
        ("create table t as select currval('s')", E::CURRVAL),
    ] {
        assert_eq!(verdict(text).effects, E::DDL | effect, "{text}");
    }
    let both = verdict("create table t (a int); select currval('s')").effects;
    assert_eq!(both, E::DDL | E::CURRVAL);
}

#[test]
fn set_config_for_a_transaction_ends_with_it() {
    use Effects as E;
    for (text, class, effects) in [
        ("select set_config('a', 'b', true)", Class::Read, E::SET_LOCAL),
        (
            "select set_config('a', coalesce($1, 'b'), TRUE), set_config('b', '', true)",
            Class::Read,
            E::SET_LOCAL,
        ),
        ("select set_config('a', 'b', $1)", Class::Write, E::SET_CONFIG),
        ("select set_config('a', 'b', true and false)", Class::Write, E::SET_CONFIG),
        (
            "select set_config('a', 'b', true), set_config('a', 'b', false)",
            Class::Write,
            E::SET_CONFIG | E::SET_LOCAL,
        ),
        ("select set_config('a', (array['x', 'y'])[1], true)", Class::Read, E::SET_LOCAL),
        ("select set_config('a', x[1, true], false)", Class::Write, E::SET_CONFIG),
        (
            "select set_config(f(1, 2, true), 'b', false)",
            Class::Write,
            E::SET_CONFIG | E::UNKNOWN_CALL | E::NEXTVAL,
        ),
        ("select set_config('a', 'b', true", Class::Write, E::SET_CONFIG),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.effects), (class, effects), "{text}");
    }
}

#[test]
fn cursors() {
    use Effects as E;
    for (text, class, effects) in [
        ("declare c cursor with hold for select 1", Class::Write, E::CURSOR | E::HOLD_CURSOR),
        ("declare c no scroll cursor for select 1", Class::Read, E::CURSOR),
        ("declare c cursor for select 1 for update", Class::Write, E::CURSOR),
        ("declare c cursor for select nextval('s')", Class::Write, E::CURSOR | E::NEXTVAL),
        ("close c", Class::Session, E::CLOSE_CURSOR),
        ("close all", Class::Session, E::CLOSE_ALL),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.effects), (class, effects), "{text}");
    }
}

#[test]
fn effects() {
    use Effects as E;
    for (text, class, effects) in [
        ("create temp table t (a int)", Class::Write, E::DDL | E::TEMP_OBJECT),
        ("create or replace local temporary view v as select 1", Class::Write, E::DDL | E::TEMP_OBJECT),
        ("create table pg_temp.t (a int)", Class::Write, E::DDL | E::TEMP_OBJECT),
        ("create table temp (a int, b numeric(10))", Class::Write, E::DDL),
        (
            "create function f() returns int begin atomic select 1; select case when true then 2 end; end",
            Class::Write,
            E::DDL,
        ),
        (
            "create function f() returns int begin atomic create text search parser p (start = a, end = b); end",
            Class::Write,
            E::DDL,
        ),
        ("select 1 into temp t", Class::Write, E::DDL | E::TEMP_OBJECT | E::NEXTVAL),
        ("select 1 into pg_temp.t", Class::Write, E::DDL | E::TEMP_OBJECT | E::NEXTVAL),
        ("select 1 into t", Class::Write, E::DDL | E::NEXTVAL),
        ("insert into t values (1)", Class::Write, E::NEXTVAL),
        ("listen c", Class::Write, E::LISTEN),
        ("unlisten c", Class::Session, E::UNLISTEN),
        ("unlisten *", Class::Session, E::UNLISTEN_ALL),
        ("select pg_advisory_lock(1)", Class::Write, E::ADVISORY_LOCK),
        ("select pg_advisory_xact_lock(1)", Class::Write, E::NONE),
        ("select pg_advisory_unlock(1)", Class::Write, E::ADVISORY_UNLOCK),
        ("select pg_advisory_unlock_all()", Class::Write, E::ADVISORY_UNLOCK_ALL),
        ("prepare p as select 1", Class::Write, E::PREPARE),
        ("execute p (1)", Class::Write, E::EXECUTE | E::NEXTVAL),
        ("deallocate p", Class::Session, E::DEALLOCATE),
        ("deallocate prepare all", Class::Session, E::DEALLOCATE_ALL),
        ("load 'x'", Class::Write, E::LOAD),
        ("select set_config('a', 'b', false)", Class::Write, E::SET_CONFIG),
        ("update pg_settings set setting = 1 where name = 'a'", Class::Write, E::SET_CONFIG | E::NEXTVAL),
        ("do $$ begin end $$", Class::Write, E::PROCEDURAL | E::NEXTVAL | E::DDL),
        ("call p()", Class::Write, E::PROCEDURAL | E::NEXTVAL | E::UNKNOWN_CALL),
        ("select currval('s')", Class::Write, E::CURRVAL),
        ("select nextval('s')", Class::Write, E::NEXTVAL),
        ("discard all", Class::Session, E::DISCARD_ALL),
        ("discard temporary", Class::Session, E::DISCARD_TEMP),
        ("discard sequences", Class::Session, E::DISCARD_SEQUENCES),
        ("discard plans", Class::Session, E::DISCARD_PLANS),
        ("alter table t add a int", Class::Write, E::DDL),
        ("select setseed(0.1)", Class::Write, E::BACKEND_STATE),
        ("select mine()", Class::Write, E::UNKNOWN_CALL | E::NEXTVAL),
        ("select 1", Class::Read, E::NONE),
        ("vacuum (analyze) t", Class::Write, E::NONE),
    ] {
        let verdict = verdict(text);
        assert_eq!((verdict.class, verdict.effects), (class, effects), "{text}");
        assert_eq!(verdict.statements, 1, "{text}");
    }
    let both = verdict("listen \"A\"; listen B");
    assert_eq!(&*both.channels, &[Box::from(*b"A"), Box::from(*b"b")]);
    for (text, object) in [
        ("prepare P as select 1", Some("p")),
        ("deallocate all", None),
        ("deallocate prepare", Some("prepare")),
        ("fetch next from C", Some("c")),
        ("move \"C\"", Some("C")),
        ("unlisten x", Some("x")),
        ("explain analyze execute q(1)", Some("q")),
    ] {
        let object = object.map(|name| Box::from(name.as_bytes()));
        assert_eq!(verdict(text).object, object, "{text}");
    }
}

#[test]
fn the_users_functions_and_relations() {
    let row = |name: &str, volatility| (Box::from(name.as_bytes()), volatility);
    let functions = Functions::builtin()
        .with_catalog([
            row("stable", Volatility::Stable),
            row("Wild", Volatility::Volatile),
            row("rollup", Volatility::Volatile),
        ])
        .with_relations([(Box::from(*b"my_seq"), "is a sequence"), (Box::from(*b"My View"), "is a view")]);
    let class = |text: &str| classify(text.as_bytes(), &Lexing::default(), &functions).class;
    assert_eq!(class("select STABLE(1), s.stable(2)"), Class::Read);
    assert_eq!(class("select \"Wild\"(1)"), Class::Write);
    assert_eq!(class("select unknown(1)"), Class::Write);
    assert_eq!(class("select 1 group by rollup (a)"), Class::Write);
    assert_eq!(verdict("select 1 group by rollup (a)").class, Class::Read);
    assert_eq!(class("select * from My_Seq"), Class::Write);
    assert_eq!(class("select * from s.\"My View\""), Class::Write);
    assert_eq!(class("select * from my_view"), Class::Read);
    // an unlogged table is among them, and not even planned on a standby
    assert_eq!(class("explain (costs off) select 1 from My_Seq where a = 1"), Class::Write);
    assert_eq!(class("explain (costs off) select volatile_function(1) from t"), Class::Read);
    assert_eq!(class("explain (route) select 1 from my_seq"), Class::Session);
}

#[test]
fn lexing_rules_change_what_is_seen() {
    let text = b"select '\\' , nextval('s'), '\\'";
    let off = Lexing { standard_conforming_strings: false, ..Lexing::default() };
    let functions = Functions::builtin();
    assert_eq!(classify(text, &Lexing::default(), &functions).class, Class::Write);
    assert_eq!(&*classify(text, &Lexing::default(), &functions).reason, "nextval");
    assert_eq!(classify(b"select 'a\\' , nextval(1) '", &off, &functions).class, Class::Read);
    let sjis = Lexing { encoding: Encoding::Sjis, ..Lexing::default() };
    assert_eq!(classify(b"select E'\x95\x5c', nextval('s')", &sjis, &functions).class, Class::Write);
    assert_eq!(classify(b"select E'\x95\x5c', 1", &sjis, &functions).class, Class::Read);
}

#[test]
fn nothing_and_hints() {
    for text in ["", " ", ";", "-- c", "/* c */;;"] {
        let verdict = verdict(text);
        assert_eq!((verdict.statements, verdict.class), (0, Class::Session), "{text}");
    }
    let hinted = verdict("/* pgha: replica, strong */ insert into t values (1)");
    assert_eq!(hinted.class, Class::Write);
    assert_eq!((hinted.hint, hinted.consistency), (Some(Hint::Replica), Some(ConsistencyHint::Strong)));
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
        let words = "select insert into update delete from with as ( ) ( ) , ; . ' \" $$ $a$ E' U&\" /* */ -- \n :: a t f \
            nextval( explain ( analyze ) copy to stdout set local = begin atomic end case in for share declare cursor \
            hold pg_settings current_setting( 'x' show time zone interval on operator( distinct \\ 1 $1 <-> + - fetch";
        prop::collection::vec(prop::sample::select(words.split(' ').collect::<Vec<_>>()), 0..40)
    }

    fn queries() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "select 1",
            "select a.b from t a(x), u as v(y) where z in (1, 2)",
            "values (1), (2)",
            "with q(a) as (select 1) select * from q",
            "(select 1) union (select lower('x'))",
        ])
    }

    fn writes() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "insert into t values (1)",
            "update t set a = 1",
            "delete from t using u",
            "merge into t using u on a = b when matched then delete",
            "with x as (select 1) delete from t",
            "select nextval('s')",
            "select unknown(1)",
            "select 1 from t for update",
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_taken(text in prop::collection::vec(any::<u8>(), 0..200), on: bool) {
            let lexing = Lexing { standard_conforming_strings: on, encoding: Encoding::Gb18030 };
            BUILTIN.with(|functions| classify(&text, &lexing, functions));
        }

        #[test]
        fn any_words_are_taken_and_comments_change_nothing(words in pieces(), spaced: bool) {
            let text = words.join(if spaced { " " } else { "" });
            let bare = verdict(&text);
            // behind an unterminated token a comment is part of it
            if &*bare.reason != "lexically broken" {
                let commented = verdict(&format!("{text} /* insert */\n-- delete"));
                let in_front = verdict(&format!("-- x\n/* a /* b */ */{text}"));
                if !text.contains("--") && !text.contains("/*") {
                    prop_assert_eq!(&bare, &commented);
                }
                prop_assert_eq!(&bare, &in_front);
            }
        }

        #[test]
        fn a_write_anywhere_makes_a_write(query in queries(), write in writes(), shape in 0..9) {
            let text = match shape {
                0 => format!("with w as ({write}) {query}"),
                1 => format!("with w(a, b) as materialized ({write}) {query}"),
                2 => format!("with v as ({query}), w as not materialized ({write}) {query}"),
                3 => format!("{query}; {write}"),
                4 => format!("{write};{query}"),
                5 => format!("explain analyze {write}"),
                6 => format!("copy ({write}) to stdout"),
                7 => format!("select * from ({query}) x, (with w as ({write}) {query}) y"),
                _ => format!("/* pgha: replica */ with recursive v(a) as ({query}) , w as ({write}) ({query})"),
            };
            prop_assert_eq!(verdict(&text).class, Class::Write, "{}", text);
            prop_assert_eq!(verdict(&text.to_uppercase()).class, Class::Write, "{}", text);
            prop_assert_eq!(verdict(&text.replace(' ', "\n/**/")).class, Class::Write, "{}", text);
        }

        #[test]
        fn queries_stay_reads(query in queries(), other in queries(), shape in 0..5) {
            let text = match shape {
                0 => format!("with w as ({other}) ({query})"),
                1 => format!("select * from ({other}) as o(a) where exists ({query})"),
                2 => format!("{query};{other}"),
                3 => format!("explain (analyze) {query}"),
                _ => format!("copy ({query}) to stdout (format csv)"),
            };
            prop_assert_eq!(verdict(&text).class, Class::Read, "{}: {}", text, verdict(&text).reason);
        }
    }
}

#[test]
fn the_second_statement_begins_behind_the_first_semicolon() {
    let second = |sql: &str| {
        super::second_statement(sql.as_bytes(), &Lexing::default()).map(|at| sql[at..].to_owned())
    };
    assert_eq!(second("ROLLBACK;\nRESET ALL; x").as_deref(), Some("\nRESET ALL; x"));
    assert_eq!(second("SELECT ';' /* ; */; SELECT 2").as_deref(), Some(" SELECT 2"));
    for one in ["", "ROLLBACK", "ROLLBACK ;; -- nothing", "SELECT $$;$$", "SELECT 'a;"] {
        assert_eq!(second(one), None, "{one}");
    }
}
