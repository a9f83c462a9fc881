//! Random interleavings of sessions that share backends, each beside a twin with a connection of its own: no difference may be seen.
//!
//! Statement names, settings, search paths, roles, savepoints, cursors and temporary tables are the same few in all sessions, so that
//! anything which one session leaves in a backend, another would stumble over. INTERLEAVINGS and INTERLEAVING_SEED in the environment
//! ask for more, or for one again.

#![expect(clippy::print_stdout, reason = "what was said before a difference, and how much was tried")]

use std::collections::BTreeMap;
use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::support::raw::{Message, Raw, frame, parse, query, sync};
use crate::support::{PATIENCE, Proxy, World, block_on, direct, leader, on_leader};

/// Sessions that take turns.
const SESSIONS: usize = 3;
/// Steps of one interleaving.
const STEPS: usize = 24;

const SETTINGS: [&str; 6] =
    ["work_mem", "search_path", "my.own", "DateStyle", "TimeZone", "extra_float_digits"];

/// One session through the proxy, and its twin.
struct Twins {
    through: Side,
    direct: Side,
    /// The transaction has failed.
    aborted: bool,
}

/// One connection, and what it was told of settings.
struct Side {
    raw: Raw,
    told: BTreeMap<String, String>,
}

impl Side {
    fn new(raw: Raw) -> Self {
        // A commit waits for the synchronous standby's disk, which others may keep busy.
        raw.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { raw, told: BTreeMap::new() }
    }

    /// Sends messages with so many ReadyForQuery to come, and gives what was answered, as far as it has to be the same.
    fn ask(&mut self, bytes: &[u8], answers: usize) -> Vec<String> {
        self.raw.send(bytes);
        let mut all = Vec::new();
        for _ in 0..answers {
            loop {
                let Some(message) = self.raw.receive() else {
                    all.push("closed".into());
                    return all;
                };
                self.take(&message, &mut all);
                if message.0 == b'Z' {
                    break;
                }
            }
        }
        let told = self.told.iter().fold(String::new(), |mut text, (name, value)| {
            write!(text, " {name}={value}").expect("a String takes everything");
            text
        });
        all.push(format!("told:{told}"));
        all
    }

    fn take(&mut self, (tag, body): &Message, all: &mut Vec<String>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "|");
        match tag {
            b'S' => {
                let mut parts = body.split(|byte| *byte == 0).map(text);
                let (name, value) = (parts.next().unwrap(), parts.next().unwrap());
                // By which sessions know their own rows.
                if name != "application_name" {
                    self.told.insert(name, value);
                }
            }
            b'E' | b'N' => {
                let fields = body
                    .split(|byte| *byte == 0)
                    .filter(|field| field.first().is_some_and(|kind| b"SVCMDHPpq".contains(kind)));
                let told = fields.map(text).collect::<Vec<_>>().join("|");
                // A BEGIN that the proxy has put off leaves no portal that can't be run a second time.
                let no_portal = told.contains("|C34000|") || told.contains("|C55000|Mportal");
                all.push(if no_portal {
                    "E no such portal".into()
                } else {
                    format!("{} {told}", char::from(*tag))
                });
            }
            b'T' => all.push(format!("T {}", columns(body))),
            _ => all.push(format!("{} {}", char::from(*tag), text(body))),
        }
    }
}

/// A RowDescription without the tables' numbers: temporary tables have others.
fn columns(body: &[u8]) -> String {
    let (mut rest, mut out) = (&body[2..], String::new());
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, tail) = rest.split_at(end);
        write!(out, "{}:{:?} ", String::from_utf8_lossy(name), &tail[7..19])
            .expect("a String takes everything");
        rest = &tail[19..];
    }
    out
}

/// What was said so far; printed where a panic ends it.
struct History(String);

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}

/// What is said in one step: the words for a report, the bytes, and how many ReadyForQuery they make.
struct Step {
    words: String,
    bytes: Vec<u8>,
    answers: usize,
}

fn value(random: &mut StdRng, setting: &str) -> &'static str {
    let values: &[&str] = match setting {
        "work_mem" => &["'5MB'", "'6MB'", "7168"],
        "search_path" => &["one", "two", "two, one", "''", "pg_catalog, one"],
        "my.own" => &["'a'", "'b c'", "''", "'q''q'"],
        "DateStyle" => &["ISO", "German", "'SQL, DMY'"],
        "TimeZone" => &["'UTC'", "'Asia/Tokyo'", "3"],
        _ => &["0", "1", "3"],
    };
    values.choose(random).expect("there are some")
}

fn sql(random: &mut StdRng) -> String {
    let setting = *SETTINGS.choose(random).expect("there are some");
    let given = value(random, setting);
    let n = random.random_range(0..4);
    match random.random_range(0..36) {
        0..=2 => format!("SHOW {setting}"),
        3 => format!("SELECT current_setting('{setting}', true)"),
        4..=6 => format!("SET {setting} = {given}"),
        7 => format!("SET LOCAL {setting} = {given}"),
        8 => format!("RESET {setting}"),
        9 => ["RESET ALL", "DISCARD ALL", "DEALLOCATE ALL", "DISCARD TEMP", "DISCARD PLANS"]
            [n % 4 + usize::from(random.random::<bool>())]
        .into(),
        10 => format!("SELECT set_config('my.own', 'set {n}', {})", random.random::<bool>()),
        11 | 12 => [
            "BEGIN",
            "BEGIN READ ONLY",
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
        ][n]
            .into(),
        13 | 14 => ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "END"][n].into(),
        15 => ["SAVEPOINT a", "SAVEPOINT b", "SAVEPOINT a", "SAVEPOINT \"A b\""][n].into(),
        16 => ["ROLLBACK TO a", "ROLLBACK TO SAVEPOINT b", "RELEASE a", "ROLLBACK TO \"A b\""][n].into(),
        17..=19 => "SELECT here FROM place".into(),
        20 => ["SELECT 1/0", "SELECT nothing", "SET work_mem = 'many'", "SELEC 1"][n].into(),
        21 => ["SET ROLE taker", "RESET ROLE", "SET LOCAL ROLE taker", "SET ROLE nobody_knows"][n].into(),
        22 => "SELECT current_user, session_user".into(),
        23 => format!("PREPARE p AS SELECT here, {n} FROM place"),
        24 => ["EXECUTE p", "DEALLOCATE p", "EXECUTE p", "EXECUTE q"][n].into(),
        25 => [
            "CREATE TEMP TABLE own (n int)",
            "DROP TABLE own",
            "INSERT INTO own VALUES (1), (2)",
            "SELECT count(*) FROM own",
        ][n]
            .into(),
        26 => [
            "DECLARE c CURSOR FOR SELECT generate_series(1, 5)",
            "FETCH 2 FROM c",
            "CLOSE c",
            "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
        ][n]
            .into(),
        27 => format!("SET {setting} = {given}; SELECT current_setting('{setting}'); SELECT here FROM place"),
        28 => format!("BEGIN; SET LOCAL {setting} = {given}; SELECT current_setting('{setting}'); COMMIT"),
        29 => format!("SET {setting} = {given}; SELECT 1/0"),
        30 | 31 => format!("INSERT INTO public.kept SELECT current_setting('application_name'), {n}"),
        32 | 33 => {
            "SELECT n, count(*) FROM public.kept WHERE key = current_setting('application_name') GROUP BY n ORDER BY n"
                .into()
        }
        34 => "SHOW transaction_isolation".into(),
        _ => ["", ";", "SELECT 1; SELECT 'x'", "SHOW transaction_read_only"][n].into(),
    }
}

/// Statements by name, so that a Bind brings as many parameters as there are: one for "s", none for the others.
const PREPARED: [(&str, &[&str]); 3] = [
    (
        "s",
        &[
            "SELECT $1::int + 1",
            "SELECT current_setting('search_path'), here, $1::int FROM place",
            "SELECT $1::int / 0",
            "INSERT INTO public.kept SELECT current_setting('application_name'), $1::int",
        ],
    ),
    (
        "S t",
        &[
            "SELECT here FROM place",
            "SELECT generate_series(1, 5)",
            "SET work_mem = '8MB'",
            "SHOW search_path",
        ],
    ),
    ("", &["SELECT here FROM place", "SELECT generate_series(1, 5)", "SELECT current_user", "SELECT 1/0"]),
];

/// A batch of the extended protocol, up to its Sync.
fn batch(random: &mut StdRng, ties: bool, words: &mut String, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let (name, texts) = PREPARED[random.random_range(0..3)];
        let portal = ["", "c"][random.random_range(0..2)];
        // Of two names for one text an error tells one.
        let text = format!("{} -- {name}", texts.choose(random).expect("there are some"));
        match random.random_range(0..9) {
            8 => {
                // As drivers do.
                let begin = if ties { "BEGIN" } else { "BEGIN READ ONLY" };
                let sql = [begin, "COMMIT", "ROLLBACK"][random.random_range(0..3)];
                write!(words, "Parse(\"\", {sql}) ").expect("a String takes everything");
                bytes.extend(parse("", sql));
                bind(words, bytes, "", "");
                close(words, bytes, "");
                // What follows before the same Sync stays where a READ ONLY transaction was, which may be a replica.
                if !ties && sql != begin {
                    break;
                }
            }
            0..=2 => {
                // A name that is taken is another error than a text that isn't right; a server looks at the text first.
                let again = random.random_range(0..4) == 0;
                let text = if again {
                    format!("SELECT {} -- {name}", if name == "s" { "$1::int" } else { "5" })
                } else {
                    text
                };
                if !again {
                    close(words, bytes, name);
                }
                write!(words, "Parse({name:?}, {text}) ").expect("a String takes everything");
                bytes.extend(parse(name, &text));
                if random.random() {
                    bind(words, bytes, portal, name);
                }
            }
            3 | 4 => bind(words, bytes, portal, name),
            5 => {
                write!(words, "Describe({name:?}) ").expect("a String takes everything");
                bytes.extend(frame(b'D', &[b"S", name.as_bytes(), b"\0"].concat()));
            }
            6 => close(words, bytes, name),
            _ => execute(words, bytes, "c", 2),
        }
    }
    words.push_str("Sync ");
    bytes.extend(sync());
}

/// One read as most drivers send it.
fn lone(random: &mut StdRng, words: &mut String, bytes: &mut Vec<u8>) {
    let texts = [
        "SELECT here FROM place",
        "SELECT current_user",
        "SELECT 1/0",
        "SELECT count(*) FROM own",
        "SELECT n, count(*) FROM public.kept WHERE key = current_setting('application_name') GROUP BY n ORDER BY n",
    ];
    let text = texts.choose(random).expect("there are some");
    write!(words, "Parse(\"\", {text}) ").expect("a String takes everything");
    bytes.extend(parse("", text));
    if random.random() {
        words.push_str("Describe(\"\") ");
        bytes.extend(frame(b'D', b"S\0"));
    }
    bind(words, bytes, "", "");
    words.push_str("Sync ");
    bytes.extend(sync());
}

fn close(words: &mut String, bytes: &mut Vec<u8>, name: &str) {
    write!(words, "Close({name:?}) ").expect("a String takes everything");
    bytes.extend(frame(b'C', &[b"S", name.as_bytes(), b"\0"].concat()));
}

fn bind(words: &mut String, bytes: &mut Vec<u8>, portal: &str, name: &str) {
    write!(words, "Bind({portal:?}, {name:?}) ").expect("a String takes everything");
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend_from_slice(if name == "s" { b"\0\x01\0\0\0\x0242\0\0" } else { b"\0\0\0\0" });
    bytes.extend(frame(b'B', &body));
    execute(words, bytes, portal, 0);
}

fn execute(words: &mut String, bytes: &mut Vec<u8>, portal: &str, rows: u8) {
    write!(words, "Execute({portal:?}, {rows}) ").expect("a String takes everything");
    bytes.extend(frame(b'E', &[portal.as_bytes(), &[0, 0, 0, 0, rows]].concat()));
}

/// What ties a session to its backend. A READ ONLY transaction may run on a replica, and a session that is tied to that can't write,
/// nor can a transaction that begins before one Sync with its end, and no standby is SERIALIZABLE: an interleaving has one or the other.
const TYING: [&str; 5] = ["PREPARE", "WITH HOLD", "TEMP TABLE", "false)", "SERIALIZABLE"];

/// A search path of the startup packet is set again by a query, behind which no isolation level can be chosen: in an interleaving there are
/// such levels, or what takes the path back.
const TAKES_BACK: [&str; 2] = ["RESET ALL", "RESET search_path"];

fn allowed(sql: &str, ties: bool, levels: bool) -> bool {
    let left_out = if levels { TAKES_BACK.contains(&sql) } else { sql.contains("ISOLATION LEVEL") };
    if left_out {
        return false;
    }
    if ties { !sql.contains("READ ONLY") } else { !TYING.iter().any(|word| sql.contains(word)) }
}

fn step(random: &mut StdRng, ties: bool, levels: bool) -> Step {
    let (mut words, mut bytes) = (String::new(), Vec::new());
    // Now and then several at once.
    let answers = if random.random_range(0..6) == 0 { random.random_range(2..5) } else { 1 };
    for _ in 0..answers {
        match random.random_range(0..12) {
            0..=3 => batch(random, ties, &mut words, &mut bytes),
            4 | 5 => lone(random, &mut words, &mut bytes),
            _ => {
                let sql = loop {
                    let sql = sql(random);
                    if allowed(&sql, ties, levels) {
                        break sql;
                    }
                };
                write!(words, "{sql:?} ").expect("a String takes everything");
                bytes.extend(query(&sql));
            }
        }
    }
    Step { words, bytes, answers }
}

/// What all end with, so that the next interleaving begins with nothing.
const END: [&str; 3] =
    ["ROLLBACK", "DISCARD ALL", "DELETE FROM public.kept WHERE key = current_setting('application_name')"];

const TABLES: &str = "
    CREATE SCHEMA one; CREATE TABLE one.place AS SELECT 'in one' AS here; GRANT USAGE ON SCHEMA one TO taker;
    CREATE SCHEMA two; CREATE TABLE two.place AS SELECT 'in two' AS here; GRANT SELECT ON one.place TO taker;
    CREATE TABLE public.kept (key text, n int)";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn sessions_that_share_backends_see_what_they_would_alone() {
    let world = World::shared();
    on_leader(&world.status, "CREATE ROLE taker; GRANT taker TO app");
    crate::support::psql::ask(&world.status, world.proxy.port, TABLES);
    // Tables of their own for the twins: SERIALIZABLE transactions on both sides would fail each other.
    on_leader(&world.status, "CREATE DATABASE alone OWNER app");
    direct(&world.status, leader(&world.status), "alone", &format!("SET ROLE app; {TABLES}"));
    block_on(world.replicas_catch_up());
    // Half of them with unnamed statements that are served from those of others as soon as they can be.
    let proxies = [0, 1].map(|threshold| {
        let configuration = format!("pool.size = {SESSIONS}\npool.prepare_threshold = {threshold}");
        Proxy::start(&world.status, &configuration)
    });
    let status = &world.status;
    let open = |port, database: &str, key: &str| {
        let options = [("options", "-c my.own=first -c search_path=one"), ("application_name", key)];
        Side::new(Raw::log_in_with(port, &status.app, database, status.app_password.reveal(), &options))
    };
    let mut twins = [0, 1].map(|which| {
        let one = |number| Twins {
            through: open(proxies[which].port, &status.app, &format!("through{which}{number}")),
            direct: open(leader(status).direct_port, "alone", &format!("direct{which}{number}")),
            aborted: false,
        };
        (0..SESSIONS).map(one).collect::<Vec<_>>()
    });
    let (first, count) = (number("INTERLEAVING_SEED", 1), number("INTERLEAVINGS", 300));
    for seed in first..first + count {
        let mut random = StdRng::seed_from_u64(seed);
        let mut history = History(format!("INTERLEAVING_SEED={seed}\n"));
        let twins = &mut twins[usize::from(seed % 8 >= 4)];
        for _ in 0..STEPS {
            let at = random.random_range(0..SESSIONS);
            let step = step(&mut random, seed % 2 == 0, seed % 4 < 2);
            compare(&mut twins[at], &step, at, &mut history.0);
        }
        for (at, twins) in twins.iter_mut().enumerate() {
            for sql in END {
                let step = Step { words: format!("{sql:?}"), bytes: query(sql), answers: 1 };
                compare(twins, &step, at, &mut history.0);
            }
        }
    }
    println!("{count} interleavings from seed {first} on: no difference");
    let spared = proxies.each_ref().map(|proxy| proxy.metric("pgha_parses_spared_total", ""));
    assert!(spared[0] == 0.0 && (spared[1] > 0.0 || count < 100), "{spared:?}");
    println!("{} Parse messages were spared", spared[1]);
    proxies.iter().for_each(Proxy::assert_healthy);
}

fn compare(twins: &mut Twins, step: &Step, at: usize, history: &mut String) {
    writeln!(history, "  {at}: {}", step.words).expect("a String takes everything");
    let mut direct = twins.direct.ask(&step.bytes, step.answers);
    let mut through = twins.through.ask(&step.bytes, step.answers);
    let all = (through.clone(), direct.clone());
    let aborted = std::mem::replace(
        &mut twins.aborted,
        direct.iter().rev().find(|line| line.starts_with('Z')).is_some_and(|line| line == "Z E"),
    );
    // A backend that doesn't have a statement can't be given it in a failed transaction: another error may come before that.
    for answer in [&mut direct, &mut through] {
        let failed = answer.iter().position(|line| line == "Z E").map_or(answer.len(), |at| at + 1);
        let rest = answer.split_off(if aborted { 0 } else { failed });
        let telling = |line: &String| ["Z ", "C ", "told"].iter().any(|kind| line.starts_with(kind));
        answer.extend(rest.into_iter().filter(telling));
    }
    // One that can't be planned any more is refused before its parameters are told, where the backend has to parse it first; and of two
    // things that are wrong with a Bind that is the first.
    let refused = |lines: &[String], at: usize| {
        lines[at].starts_with("t ") && lines.get(at + 1).is_some_and(|next| next.starts_with("E "))
    };
    for answer in [&mut direct, &mut through] {
        let kept =
            (0..answer.len()).filter(|at| !refused(answer, *at)).map(|at| answer[at].clone()).collect();
        *answer = kept;
    }
    for (there, here) in direct.iter_mut().zip(&through) {
        if there.starts_with("E ") && here.contains("C42P01|Mrelation \"place\" does not exist") {
            there.clone_from(here);
        }
    }
    assert!(through == direct, "through the proxy: {:#?}\ndirectly: {:#?}", all.0, all.1);
}
