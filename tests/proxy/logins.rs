//! Logging in: the words and the SQLSTATE of a direct connection.

use std::time::Duration;

use tokio_postgres::{AsyncMessage, Config, NoTls};

use crate::support::{Proxy, World, application, block_on, connect_as, leader, on_leader, one, told};

async fn refusal(config: &Config) -> String {
    match config.connect(NoTls).await {
        Ok(_) => "let in".to_owned(),
        Err(error) => told(&error),
    }
}

/// What a direct connection and one through the proxy are refused with.
async fn both(world: &World, change: impl Fn(&mut Config)) -> (String, String) {
    let at = |port| {
        let mut config = application(&world.status, port);
        change(&mut config);
        config
    };
    (refusal(&at(leader(&world.status).direct_port)).await, refusal(&at(world.proxy.port)).await)
}

#[test]
fn refusals_have_the_words_of_postgresql() {
    let world = World::shared();
    for sql in [
        "CREATE ROLE expired LOGIN PASSWORD 'right' VALID UNTIL '2001-01-01'",
        "CREATE ROLE no_login NOLOGIN PASSWORD 'right'",
        "CREATE ROLE no_password LOGIN",
        "CREATE ROLE no_connections LOGIN PASSWORD 'right' CONNECTION LIMIT 0",
        "CREATE ROLE not_there LOGIN PASSWORD 'right'",
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
    ] {
        on_leader(&world.status, sql);
    }
    block_on(async {
        world.replicas_catch_up().await;
        let cases: [(&str, &str, &str, &str); 9] = [
            ("app", "wrong", "app", "28P01"),
            ("nobody", "right", "app", "28P01"),
            ("expired", "right", "app", "28P01"),
            ("expired", "wrong", "app", "28P01"),
            ("no_password", "right", "app", "28P01"),
            ("no_login", "right", "app", "28000"),
            ("no_login", "wrong", "app", "28P01"),
            ("no_connections", "right", "app", "53300"),
            ("not_there", "right", "no_database", "3D000"),
        ];
        for (user, password, database, state) in cases {
            let (direct, proxied) = both(world, |config| {
                config.user(user).password(password).dbname(database);
            })
            .await;
            assert!(direct.contains(state), "{user}: {direct}");
            assert_eq!(proxied, direct, "{user} {password} {database}");
        }
        let (direct, proxied) = both(world, |config| {
            config.user("not_there").password("right").dbname("closed");
        })
        .await;
        assert_eq!(proxied, direct);
        let (direct, proxied) = both(world, |config| {
            config.options("-c no_such_setting=1");
        })
        .await;
        assert_eq!(proxied, direct);
        // After all that the same user comes in.
        let client = connect_as(&application(&world.status, world.proxy.port)).await;
        assert_eq!(one(&client, "SELECT current_user").await, "app");
    });
    world.proxy.assert_healthy();
}

/// The notices of a login, as SQLSTATE and words.
async fn notices(config: &Config) -> Vec<String> {
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    drop(client);
    let mut told = Vec::new();
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message.unwrap() {
            told.push(format!("{} {} {}", notice.severity(), notice.code().code(), notice.message()));
        }
    }
    told
}

#[test]
fn a_name_that_is_cut_is_told_of_at_login() {
    let world = World::shared();
    let name = |options: &str, name: &str, port| {
        let mut config = application(&world.status, port);
        config.options(options).application_name(name);
        config
    };
    let (long, wide) = ("x".repeat(65), format!("x{}", "é".repeat(32)));
    let cases =
        [("", &*long, 1), ("", &wide, 1), ("", &long[..63], 0), ("-c client_min_messages=warning", &long, 0)];
    block_on(async {
        for (options, given, count) in cases {
            let direct = notices(&name(options, given, leader(&world.status).direct_port)).await;
            assert_eq!(direct.len(), count, "{direct:?}");
            for _ in 0..2 {
                assert_eq!(
                    notices(&name(options, given, world.proxy.port)).await,
                    direct,
                    "{options} {given}"
                );
            }
        }
    });
    world.proxy.assert_healthy();
}

#[test]
fn a_new_password_is_taken_up() {
    let world = World::shared();
    on_leader(&world.status, "CREATE ROLE changes LOGIN PASSWORD 'one'");
    let with = |port, password: &str| {
        let mut config = application(&world.status, port);
        config.user("changes").password(password);
        config
    };
    let refused = "FATAL 28P01: password authentication failed for user \"changes\"";
    // Verifiers are read again after a time; at once when a login fails.
    let proxy = Proxy::start(&world.status, "auth.cache_ttl = '1s'");
    block_on(async {
        world.replicas_catch_up().await;
        let old = connect_as(&with(world.proxy.port, "one")).await;
        assert_eq!(one(&connect_as(&with(proxy.port, "one")).await, "SELECT current_user").await, "changes");
        on_leader(&world.status, "ALTER ROLE changes PASSWORD 'two'");
        world.replicas_catch_up().await;
        let first = refusal(&with(world.proxy.port, "two")).await;
        assert!(first == "let in" || first == refused, "{first}");
        assert_eq!(
            one(&connect_as(&with(world.proxy.port, "two")).await, "SELECT current_user").await,
            "changes"
        );
        // Who is in stays in, as on a direct connection; new backends are opened with the newest login's key.
        assert_eq!(one(&old, "SELECT current_user").await, "changes");
        assert_eq!(refusal(&with(world.proxy.port, "one")).await, refused);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(refusal(&with(proxy.port, "one")).await, refused);
        assert_eq!(one(&connect_as(&with(proxy.port, "two")).await, "SELECT current_user").await, "changes");
        on_leader(&world.status, "ALTER ROLE changes VALID UNTIL '2001-01-01'");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(refusal(&with(proxy.port, "two")).await, refused);
    });
    world.proxy.assert_healthy();
}

#[test]
fn users_of_the_configuration_need_no_lookup() {
    let world = World::shared();
    on_leader(&world.status, "CREATE ROLE configured LOGIN PASSWORD 'known'");
    block_on(world.replicas_catch_up());
    let proxy = Proxy::start(
        &world.status,
        "[auth]\nlookup_user = ''\n[[users]]\nname = 'configured'\npassword = 'known'\n",
    );
    block_on(async {
        let mut config = application(&world.status, proxy.port);
        config.user("configured").password("known");
        assert_eq!(one(&connect_as(&config).await, "SELECT current_user").await, "configured");
        assert!(refusal(config.password("wrong")).await.contains("28P01"));
        assert!(refusal(&application(&world.status, proxy.port)).await.contains("28P01"));
    });
    proxy.assert_healthy();
}
