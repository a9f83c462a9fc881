//! Chaos: the proxy before a real cluster, under load, while its parts are killed, frozen, cut off and moved. What clients were
//! told is then held against what the database holds. README.md beside this file says how to run it and how to read it.
#![expect(clippy::print_stderr, reason = "what a run shows is told to whoever runs it")]

mod journal;
mod load;
mod open_transactions;
mod plan;
mod probe;
mod proxy;
mod stage;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::journal::Journal;
use crate::load::Load;
use crate::plan::{Dice, Fault, Planned};
use crate::probe::Probe;
use crate::stage::{Stage, Struck};
use crate::verdict::Evidence;

/// One cluster at a time: two would be too much for a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// Quiet load before the first fault and after the last.
const QUIET: Duration = Duration::from_secs(2);

/// The short form: one of each of the faults that matter most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_primary() {
    let _turn = TURN.lock().await;
    let faults = [Fault::KillMember, Fault::KillPostgres, Fault::Freeze].map(Planned::leader);
    run("short", false, async |stage, journal| strike_all(stage, journal, &faults).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers_cost_no_error() {
    let _turn = TURN.lock().await;
    switch_over(number("CHAOS_SWITCHOVERS", 3)).await;
}

/// The long form, by `make chaos`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make chaos"]
async fn long() {
    let _turn = TURN.lock().await;
    let seed =
        std::env::var("CHAOS_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    let seconds = Duration::from_secs(number("CHAOS_SECONDS", 900));
    eprintln!("chaos: CHAOS_SEED={seed} CHAOS_SECONDS={}", seconds.as_secs());
    let mut dice = Dice::new(seed);
    let failsafe = dice.below(2) == 0;
    let kinds = plan::kinds(std::env::var("CHAOS_FAULTS").ok().as_deref());
    run(&format!("seed-{seed}"), failsafe, async |stage, journal| {
        let (begun, mut struck) = (Instant::now(), Vec::new());
        loop {
            for planned in dice.round(&kinds) {
                if begun.elapsed() > seconds {
                    return struck;
                }
                struck.push(stage.strike(planned, journal).await);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make chaos"]
async fn twenty_switchovers_cost_no_error() {
    let _turn = TURN.lock().await;
    switch_over(20).await;
}

async fn switch_over(times: u64) {
    let faults: Vec<_> = (0..times).map(|_| Planned::leader(Fault::Switchover)).collect();
    let name = format!("switchovers-{times}");
    let evidence = run(&name, false, async |stage, journal| strike_all(stage, journal, &faults).await).await;
    let errors = evidence.errors();
    assert!(errors.is_empty(), "errors at switchovers: {errors:#?}");
}

async fn strike_all(stage: &mut Stage, journal: &Journal, faults: &[Planned]) -> Vec<Struck> {
    let mut struck = Vec::new();
    for planned in faults {
        struck.push(stage.strike(*planned, journal).await);
    }
    struck
}

/// A run under load: the faults, then the account. Fails on what must not be.
async fn run(
    name: &str,
    failsafe: bool,
    faults: impl AsyncFnOnce(&mut Stage, &Journal) -> Vec<Struck>,
) -> Evidence {
    let mut stage = Stage::set(name, failsafe).await;
    let status = stage.cluster.status().await;
    let journal = Arc::<Journal>::default();
    let probe = Probe::start(&status);
    let load = Load::start(&stage, &status, &journal);
    tokio::time::sleep(QUIET).await;
    let struck = faults(&mut stage, &journal).await;
    tokio::time::sleep(QUIET).await;
    load.stop().await;
    let evidence = Evidence::collect(&stage, &journal, struck, probe.taken()).await;
    drop(probe);
    eprintln!("chaos: {name}, failsafe_mode {failsafe}, proxy {}\n{}", stage.proxy.pid(), evidence.account());
    evidence.wrongs().hold(&format!("see {}", stage.folder.display()));
    stage.end().await;
    evidence
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
