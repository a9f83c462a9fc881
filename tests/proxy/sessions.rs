//! What a session keeps, whichever backend serves it.

use std::time::Duration;

use tokio_postgres::{AsyncMessage, NoTls};

use crate::support::raw::{Raw, query};
use crate::support::{
    Proxy, Psql, World, application, block_on, connect, connect_as, direct, leader, one, told,
};

#[test]
fn settings_are_each_sessions_own_on_every_backend() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        let default = one(&b, "SHOW work_mem").await;
        a.batch_execute(
            "SET work_mem = '11MB'; SET search_path = 'of a', public; SET TIME ZONE 'Asia/Tokyo'",
        )
        .await
        .unwrap();
        a.batch_execute("SET application_name = 'o''clock \\ \"x\"'").await.unwrap();
        a.batch_execute("SET my.own = 'mine'").await.unwrap();
        for hint in ["", "/* pgha: primary */ ", "/* pgha: replica */ "].into_iter().cycle().take(12) {
            let all = "SELECT current_setting('work_mem') || current_setting('search_path') || current_setting('timezone')
                       || current_setting('application_name') || current_setting('my.own', true)";
            let of_a = one(&a, &format!("{hint}{all}")).await;
            assert_eq!(of_a, "11MB\"of a\", publicAsia/Tokyoo'clock \\ \"x\"mine");
            assert_eq!(one(&b, &format!("{hint}SHOW work_mem")).await, default);
            assert_eq!(
                one(&b, &format!("{hint}SELECT coalesce(current_setting('my.own', true), '')")).await,
                ""
            );
        }
        a.batch_execute("RESET ALL").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&a, "SHOW work_mem").await, default);
        }
        assert_eq!(one(&a, "SHOW search_path").await, "\"$user\", public");
        a.batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").await.unwrap();
        assert!(
            told(&a.batch_execute("CREATE TABLE not_allowed (n int)").await.unwrap_err()).contains("25006")
        );
        b.batch_execute("CREATE TABLE allowed (n int); DROP TABLE allowed").await.unwrap();
        a.batch_execute("DISCARD ALL").await.unwrap();
        a.batch_execute("CREATE TABLE allowed (n int); DROP TABLE allowed").await.unwrap();
    });
    proxy.assert_healthy();
}

#[test]
fn settings_of_the_startup_packet_hold() {
    let world = World::shared();
    block_on(async {
        let mut config = application(&world.status, world.proxy.port);
        config.options("-c work_mem=13MB -c my.own=a\\ b").application_name("first name");
        let client = connect_as(&config).await;
        for _ in 0..6 {
            assert_eq!(one(&client, "SHOW work_mem").await, "13MB");
            assert_eq!(one(&client, "SHOW my.own").await, "a b");
            assert_eq!(one(&client, "SHOW application_name").await, "first name");
        }
        client.batch_execute("SET work_mem = '14MB'").await.unwrap();
        client.batch_execute("RESET work_mem").await.unwrap();
        assert_eq!(one(&client, "SHOW work_mem").await, "13MB");
        // Who gives no name has none, whatever the backend had before.
        let nameless = connect(&world.status, &world.proxy).await;
        for sql in ["SELECT 1", "SET application_name = 'second name'; RESET application_name", "RESET ALL"] {
            nameless.batch_execute(sql).await.unwrap();
            assert_eq!(one(&nameless, "SHOW application_name").await, "");
        }
    });
    world.proxy.assert_healthy();
}

#[test]
fn reset_goes_back_to_the_startup_packet() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    block_on(async {
        let mut config = application(&world.status, proxy.port);
        config.options("-c TimeZone=Asia/Tokyo -c DateStyle=SQL,DMY");
        let client = connect_as(&config).await;
        let show =
            "/* pgha: primary */ SELECT current_setting('timezone') || ' ' || current_setting('datestyle')";
        let login = "Asia/Tokyo SQL, DMY";
        for reset in
            ["RESET timezone", "SET TIME ZONE DEFAULT", "SET timezone TO DEFAULT", "RESET ALL", "DISCARD ALL"]
        {
            client.batch_execute("SET timezone = 'UTC'").await.unwrap();
            client.batch_execute(reset).await.unwrap();
            assert_eq!(one(&client, show).await, login, "{reset}");
            client.batch_execute(reset).await.unwrap();
            assert_eq!(one(&client, show).await, login, "{reset} of what wasn't changed");
            if reset == "DISCARD ALL" {
                continue;
            }
            client.batch_execute("SET timezone = 'UTC'").await.unwrap();
            for (end, after) in [("ROLLBACK", "UTC SQL, DMY"), ("COMMIT", login)] {
                client.batch_execute("BEGIN; SELECT 1").await.unwrap();
                client.execute(reset, &[]).await.unwrap();
                assert_eq!(one(&client, show).await, login, "{reset} in a transaction");
                client.batch_execute(end).await.unwrap();
                assert_eq!(one(&client, show).await, after, "{reset} and {end}");
            }
            // What comes behind it fails before the backend was brought in line.
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(reset).await.unwrap();
            client.batch_execute("SELECT 1/0").await.unwrap_err();
            assert!(told(&client.batch_execute("SELECT 1").await.unwrap_err()).contains("25P02"));
            client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(one(&client, show).await, login, "{reset} and an error");
        }
    });
    proxy.assert_healthy();
}

#[test]
fn half_a_date_style_leaves_the_other_half() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        a.batch_execute("SET datestyle = 'Postgres'").await.unwrap();
        a.batch_execute("SET datestyle = ymd").await.unwrap();
        b.batch_execute("SET datestyle = german").await.unwrap();
        for hint in ["", "/* pgha: primary */ ", "/* pgha: replica */ "].into_iter().cycle().take(9) {
            assert_eq!(one(&a, &format!("{hint}SHOW datestyle")).await, "Postgres, YMD");
            assert_eq!(one(&b, &format!("{hint}SHOW datestyle")).await, "German, DMY");
        }
    });
    proxy.assert_healthy();
}

#[test]
fn a_default_may_name_currval() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 2");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        a.batch_execute("CREATE SEQUENCE of_default").await.unwrap();
        a.batch_execute("SELECT nextval('of_default')").await.unwrap();
        b.batch_execute("SELECT nextval('of_default')").await.unwrap();
        a.batch_execute("CREATE TABLE by_default (n int, was bigint DEFAULT currval('of_default'))")
            .await
            .unwrap();
        a.batch_execute("SELECT nextval('of_default')").await.unwrap();
        b.batch_execute("SELECT nextval('of_default')").await.unwrap();
        a.batch_execute("INSERT INTO by_default (n) VALUES (1)").await.unwrap();
        b.batch_execute("INSERT INTO by_default (n) VALUES (2)").await.unwrap();
        assert_eq!(one(&a, "SELECT string_agg(was::text, ' ' ORDER BY n) FROM by_default").await, "3 4");
        a.batch_execute("DROP TABLE by_default; DROP SEQUENCE of_default").await.unwrap();
    });
    proxy.assert_healthy();
}

#[test]
fn currval_is_undefined_where_nothing_was_called() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        a.batch_execute("CREATE SEQUENCE never").await.unwrap();
        a.batch_execute("SELECT nextval('never')").await.unwrap();
        for sql in ["SELECT currval('never')", "SELECT lastval()"] {
            let error = told(&b.batch_execute(sql).await.unwrap_err());
            assert!(error.contains("55000") && error.contains("not yet defined in this session"), "{error}");
        }
        b.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let error = told(&b.batch_execute("SELECT currval('never')").await.unwrap_err());
        assert!(error.contains("not yet defined in this session"), "{error}");
        b.batch_execute("ROLLBACK").await.unwrap();
        // The first session's own value went with that, and it is told so.
        let error = told(&a.batch_execute("SELECT currval('never')").await.unwrap_err());
        assert!(error.contains("serves other sessions"), "{error}");
        a.batch_execute("SELECT nextval('never')").await.unwrap();
        assert_eq!(one(&a, "SELECT currval('never')").await, "2");
        a.batch_execute("DISCARD SEQUENCES").await.unwrap();
        let error = told(&a.batch_execute("SELECT currval('never')").await.unwrap_err());
        assert!(error.contains("not yet defined in this session"), "{error}");
        a.batch_execute("DROP SEQUENCE never").await.unwrap();
    });
    proxy.assert_healthy();
}

#[test]
fn prepared_statements_are_shown_under_their_own_names() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        let of_a = a.prepare("SELECT 1 AS of_a").await.unwrap();
        let of_b = b.prepare("SELECT 2 AS of_b").await.unwrap();
        let all = "SELECT statement FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$' ORDER BY 1";
        let count = "SELECT count(*) FROM pg_prepared_statements";
        for _ in 0..3 {
            assert_eq!(one(&a, all).await, "SELECT 1 AS of_a");
            assert_eq!(one(&b, all).await, "SELECT 2 AS of_b");
            assert_eq!(a.query_one(&of_a, &[]).await.unwrap().get::<_, i32>(0), 1);
            assert_eq!(b.query_one(&of_b, &[]).await.unwrap().get::<_, i32>(0), 2);
            // A named statement itself: it is there once, as on a direct connection.
            let rows = a.query(all, &[]).await.unwrap();
            let shown: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            assert!(shown.len() == 2 && shown.iter().any(|sql| sql == all), "{shown:?}");
            assert_eq!(one(&b, count).await, "1");
        }
        a.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
        assert!(told(&a.batch_execute(all).await.unwrap_err()).contains("25P02"));
        a.batch_execute("ROLLBACK").await.unwrap();
        assert!(a.batch_execute(&format!("{all} LIMIT -1")).await.is_err());
        assert_eq!(a.query_one(&of_a, &[]).await.unwrap().get::<_, i32>(0), 1);
        a.batch_execute("DEALLOCATE ALL").await.unwrap();
        assert_eq!(one(&a, count).await, "0");
    });
    proxy.assert_healthy();
}

/// psql's `\parse` prepares by Parse, and SQL's EXECUTE runs that by its name, in whichever session that is.
#[test]
fn execute_runs_what_was_parsed() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    let mut sessions = [10, 20].map(|n| {
        let mut session = Psql::start(&world.status, proxy.port);
        assert_eq!(session.say(&format!("SELECT $1::int + {n} \\parse plus")), "");
        (n, session)
    });
    for _ in 0..2 {
        for (n, session) in &mut sessions {
            assert_eq!(session.say("EXECUTE plus(1);"), (*n + 1).to_string());
            assert_eq!(
                session.say("EXECUTE plus(2) \\; EXECUTE plus(3);"),
                format!("{}\n{}", *n + 2, *n + 3)
            );
            assert_eq!(session.say("\\bind_named plus 4 \\g"), (*n + 4).to_string());
            assert!(session.say("PREPARE plus AS SELECT 1;").contains("42P05"));
            assert!(session.say("EXECUTE minus(1);").contains("26000"));
            assert_eq!(session.say("BEGIN; EXECUTE plus(5); COMMIT;"), (*n + 5).to_string());
        }
    }
    let [(_, mut session), (_, idle)] = sessions;
    assert_eq!(session.say("PREPARE own AS SELECT 7; EXECUTE own; EXECUTE plus(6);"), "7\n16");
    assert_eq!(session.say("EXECUTE own;"), "7");
    drop((session, idle));
    // What it does counts as if it had been run by itself.
    let mut session = Psql::start(&world.status, proxy.port);
    assert_eq!(session.say("SET application_name = 'parsed' \\parse sets"), "");
    assert_eq!(session.say("SELECT pg_advisory_lock(771001) \\parse locks"), "");
    for _ in 0..2 {
        assert_eq!(session.say("EXECUTE sets;"), "");
        assert_eq!(session.say("SHOW application_name;"), "parsed");
        assert_eq!(session.say("RESET application_name;"), "");
    }
    assert_eq!(session.say("EXECUTE locks;"), "");
    // Shown a moment after the answer.
    proxy.until("its pin", |proxy| proxy.get("/sessions").contains("\"pinned\":1"));
    assert_eq!(session.say("DEALLOCATE locks;"), "");
    assert!(session.say("EXECUTE locks;").contains("26000"));
    // The error is the statement's own where it can't be planned any more.
    assert_eq!(session.say("CREATE TABLE gone (n int);"), "");
    assert_eq!(session.say("SELECT n FROM gone \\parse gone"), "");
    assert_eq!(session.say("DROP TABLE gone;"), "");
    let said = session.say("EXECUTE gone;");
    assert!(said.contains("42P01"), "{said}");
    assert_eq!(session.say("BEGIN;"), "");
    assert!(session.say("EXECUTE gone;").contains("42P01"));
    assert!(session.say("SELECT 1;").contains("25P02"));
    assert_eq!(session.say("ROLLBACK; SELECT 2;"), "2");
    proxy.assert_healthy();
}

#[test]
fn roles_are_taken_on_and_given_back() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    crate::support::on_leader(&world.status, "CREATE ROLE taken_on; GRANT taken_on TO app");
    block_on(async {
        world.replicas_catch_up().await;
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        a.batch_execute("SET ROLE taken_on").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&a, "SELECT current_user").await, "taken_on");
            assert_eq!(one(&b, "SELECT current_user").await, "app");
        }
        a.batch_execute("RESET ROLE").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&a, "SELECT current_user").await, "app");
        }
        assert!(told(&a.batch_execute("SET ROLE postgres").await.unwrap_err()).contains("42501"));
        assert_eq!(one(&a, "SELECT current_user").await, "app");
    });
    proxy.assert_healthy();
}

#[test]
fn temporary_tables_stay_with_their_session() {
    let world = World::shared();
    block_on(async {
        let (a, b) = (connect(&world.status, &world.proxy).await, connect(&world.status, &world.proxy).await);
        a.batch_execute("CREATE TEMP TABLE own (n int)").await.unwrap();
        for n in 1..=10 {
            a.batch_execute(&format!("INSERT INTO own VALUES ({n})")).await.unwrap();
            assert_eq!(one(&a, "SELECT count(*) FROM own").await, n.to_string());
            assert!(told(&b.batch_execute("SELECT FROM own").await.unwrap_err()).contains("42P01"));
        }
        drop(a);
        // What it leaves is nobody's: no other session may find it.
        for _ in 0..10 {
            let c = connect(&world.status, &world.proxy).await;
            assert!(
                told(&c.batch_execute("/* pgha: primary */ SELECT FROM own").await.unwrap_err())
                    .contains("42P01")
            );
        }
        b.batch_execute("CREATE TEMP TABLE own (n int)").await.unwrap();
        b.batch_execute("DISCARD ALL").await.unwrap();
        assert!(b.batch_execute("SELECT FROM own").await.is_err());
    });
    world.proxy.assert_healthy();
}

#[test]
fn sql_prepare_cursors_and_sequences_stay_with_their_session() {
    let world = World::shared();
    block_on(async {
        let (a, b) = (connect(&world.status, &world.proxy).await, connect(&world.status, &world.proxy).await);
        a.batch_execute("PREPARE p AS SELECT 'of a'").await.unwrap();
        b.batch_execute("PREPARE p AS SELECT 'of b'").await.unwrap();
        assert_eq!(one(&a, "EXECUTE p").await, "of a");
        assert_eq!(one(&b, "EXECUTE p").await, "of b");
        a.batch_execute("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)").await.unwrap();
        assert_eq!(one(&a, "FETCH c").await, "1");
        assert_eq!(one(&a, "FETCH c").await, "2");
        assert!(told(&b.batch_execute("FETCH c").await.unwrap_err()).contains("34000"));
        let (c, d) = (connect(&world.status, &world.proxy).await, connect(&world.status, &world.proxy).await);
        c.batch_execute("CREATE SEQUENCE numbers_of_sessions").await.unwrap();
        assert!(told(&d.batch_execute("SELECT lastval()").await.unwrap_err()).contains("55000"));
        assert_eq!(one(&c, "SELECT nextval('numbers_of_sessions')").await, "1");
        assert_eq!(one(&d, "SELECT nextval('numbers_of_sessions')").await, "2");
        assert_eq!(one(&c, "SELECT currval('numbers_of_sessions')").await, "1");
        assert_eq!(one(&d, "SELECT lastval()").await, "2");
    });
    world.proxy.assert_healthy();
}

#[test]
fn notifications_reach_who_listens() {
    let world = World::shared();
    block_on(async {
        let (listener, mut connection) =
            application(&world.status, world.proxy.port).connect(NoTls).await.unwrap();
        let (send, mut heard) = tokio::sync::mpsc::channel(100);
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let Ok(AsyncMessage::Notification(notification)) = message {
                    drop(send.send(format!("{}: {}", notification.channel(), notification.payload())).await);
                }
            }
        });
        let speaker = connect(&world.status, &world.proxy).await;
        listener.batch_execute("LISTEN news").await.unwrap();
        for n in 0..5 {
            speaker.batch_execute(&format!("NOTIFY news, 'number {n}'")).await.unwrap();
            let said = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap();
            assert_eq!(said.unwrap(), format!("news: number {n}"));
            assert_eq!(one(&listener, "SELECT 'asked meanwhile'").await, "asked meanwhile");
        }
        listener.batch_execute("UNLISTEN *").await.unwrap();
        speaker.batch_execute("NOTIFY news, 'unheard'").await.unwrap();
        listener.batch_execute("LISTEN news; NOTIFY news, 'own'").await.unwrap();
        let said = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap();
        assert_eq!(said.unwrap(), "news: own");
    });
    world.proxy.assert_healthy();
}

/// A driver compares the number with that of its login, to know its own from others'.
#[test]
fn own_notifications_bear_the_sessions_own_process_id() {
    let world = World::shared();
    let status = &world.status;
    let mut client = Raw::log_in(world.proxy.port, "app", "app", status.app_password.reveal());
    let own = client.process_id;
    client.send(&query("LISTEN mine"));
    client.until_ready();
    for payload in ["", "told"] {
        client.send(&query(&format!("NOTIFY mine, '{payload}'")));
        let messages = client.until_ready();
        let heard: Vec<_> =
            messages.iter().filter(|(tag, _)| *tag == b'A').map(|(_, body)| body.clone()).collect();
        assert_eq!(heard, [[&own.to_be_bytes()[..], b"mine\0", payload.as_bytes(), b"\0"].concat()]);
    }
    direct(status, leader(status), "app", "NOTIFY mine, 'of another'");
    let (_, body) = client.expect(b'A');
    assert_ne!(body[..4], own.to_be_bytes());
    assert!(body.ends_with(b"mine\0of another\0"));
}

#[test]
fn advisory_locks_are_the_sessions() {
    let world = World::shared();
    block_on(async {
        let (a, b) = (connect(&world.status, &world.proxy).await, connect(&world.status, &world.proxy).await);
        assert_eq!(one(&a, "SELECT pg_try_advisory_lock(4711)").await, "t");
        for _ in 0..5 {
            assert_eq!(one(&b, "SELECT pg_try_advisory_lock(4711)").await, "f");
        }
        assert_eq!(one(&a, "SELECT pg_advisory_unlock(4711)").await, "t");
        assert_eq!(one(&b, "SELECT pg_try_advisory_lock(4711)").await, "t");
        drop(b);
        // The end of its session frees it.
        a.batch_execute("SET lock_timeout = '10s'; SELECT pg_advisory_lock(4711)").await.unwrap();
    });
    world.proxy.assert_healthy();
}
