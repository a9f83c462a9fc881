//! The worker threads: each with a reactor of its own, that logs clients in and serves them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::console::{self, Desk};
use crate::admin::console::DATABASE;
use crate::client::{
    self, HandshakeConfig, HandshakeError, Incoming, Listener, Outcome, Reception, Replication, Verifiers,
};
use crate::metrics::{self, LoginResult, Logins};
use crate::net::reactor;
use crate::session::{self, Mail, Shared, Worker};

/// What a client passes on its way in.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) handshake: Arc<ArcSwap<HandshakeConfig>>,
    pub(super) verifiers: Arc<Verifiers>,
    pub(super) logins: Arc<Logins>,
    pub(super) console: Arc<Desk>,
}

/// Where clients come in: the first worker's business.
pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) reception: Reception,
    /// Nobody comes in any more once the other end is gone.
    pub(super) stopped: oneshot::Receiver<()>,
}

impl Entrance {
    /// Takes connections on the runtime that this is called on.
    fn open(self) -> std::io::Result<impl Future<Output = ()>> {
        let (taking, stopped) = (self.listener.open(self.reception)?, self.stopped);
        Ok(async move {
            tokio::select! {
                _gone = stopped => {}
                () = taking => {}
            }
        })
    }
}

/// The worker threads.
#[derive(Debug)]
pub(super) struct Crew {
    threads: Vec<JoinHandle<()>>,
    sessions: Arc<AtomicUsize>,
}

impl Crew {
    /// Starts a thread for each worker's counters, mail and arrivals.
    pub(super) fn start(
        shared: &Arc<Shared>,
        door: &Door,
        entrance: Entrance,
        metrics: Vec<metrics::Worker>,
        mail: Vec<mpsc::Receiver<Mail>>,
        arrivals: Vec<mpsc::Receiver<Incoming>>,
    ) -> anyhow::Result<Self> {
        let sessions = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        let mut entrance = Some(entrance);
        let parts = metrics.into_iter().zip(mail).zip(arrivals);
        for (index, ((metrics, mail), arrivals)) in parts.enumerate() {
            let entrance = entrance.take();
            let (shared, door, sessions) = (Arc::clone(shared), door.clone(), Arc::clone(&sessions));
            let (started, outcome) = std::sync::mpsc::sync_channel(1);
            let control = Handle::current();
            // A reactor can't leave the thread that it was made on: what its tasks have is not shared.
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                // Timers, and connecting, are the control runtime's.
                let _entered = control.enter();
                let opened = reactor::open().and_then(|()| entrance.map(Entrance::open).transpose());
                let taking = match opened {
                    Ok(taking) => taking,
                    Err(error) => {
                        let _nobody_waits = started.send(Err(error));
                        return;
                    }
                };
                let _nobody_waits = started.send(Ok(()));
                let worker = Worker::new(index, shared, metrics);
                let served = reactor::block_on(async move {
                    // Ends, and with it the arrivals, when the proxy takes no more clients.
                    if let Some(taking) = taking {
                        reactor::spawn(taking);
                    }
                    serve(worker, door, mail, arrivals, sessions).await;
                });
                if let Err(error) = served {
                    tracing::error!(%error, "a worker can't go on");
                }
                reactor::close();
            });
            threads.push(thread.context("starting a worker")?);
            outcome.recv().context("starting a worker")?.context("starting a worker's reactor")?;
        }
        Ok(Self { threads, sessions })
    }

    /// Clients connected, those that still log in among them.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    /// The same, to be asked from anywhere.
    pub(super) fn count(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let sessions = Arc::clone(&self.sessions);
        move || sessions.load(Relaxed)
    }

    /// Waits for the threads to end, which they do when told to drain and out of sessions.
    pub(super) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

async fn serve(
    worker: Rc<Worker>,
    door: Door,
    mail: mpsc::Receiver<Mail>,
    arrivals: mpsc::Receiver<Incoming>,
    sessions: Arc<AtomicUsize>,
) {
    let own = watched(run(Rc::clone(&worker), mail));
    let arriving = watched(take_arrivals(worker, door, arrivals, sessions));
    // Arrivals end with the acceptor: the proxy stops. The worker's own task ends with its last session.
    for ended in [arriving.await, own.await] {
        if ended.is_err() {
            tracing::error!("a task of a worker's own ended in a panic");
        }
    }
}

async fn run(worker: Rc<Worker>, mail: mpsc::Receiver<Mail>) {
    if let Err(error) = worker.run(mail).await {
        tracing::error!(%error, "a worker's own task can't go on");
    }
}

/// Starts a task whose end is told; nothing is if that is a panic.
fn watched(work: impl Future<Output = ()> + 'static) -> oneshot::Receiver<()> {
    let (tells, ended) = oneshot::channel();
    reactor::spawn(async move {
        work.await;
        let _nobody_waits = tells.send(());
    });
    ended
}

async fn take_arrivals(
    worker: Rc<Worker>,
    door: Door,
    mut arrivals: mpsc::Receiver<Incoming>,
    sessions: Arc<AtomicUsize>,
) {
    while let Some(incoming) = arrivals.recv().await {
        let (worker, door) = (Rc::clone(&worker), door.clone());
        let counted = Counted::new(&sessions);
        // Boxed at once: it is large, and would be copied from hand to hand.
        reactor::spawn(Box::pin(async move { admit(worker, &door, incoming, counted).await }));
    }
}

/// Logs a client in and serves it to its end.
async fn admit(worker: Rc<Worker>, door: &Door, incoming: Incoming, counted: Counted) {
    let Incoming { tcp, peer, guard } = incoming;
    let outcome = match tcp.take_up() {
        Ok(tcp) => {
            let config = door.handshake.load_full();
            // A login is over soon, and the task lives as long as its client: its memory isn't to be as large.
            Box::pin(client::accept(tcp, peer, &config, &door.verifiers)).await
        }
        Err(error) => Err(HandshakeError::Io(error)),
    };
    match outcome {
        Ok(Outcome::Accepted(accepted)) => {
            door.logins.count(LoginResult::Ok);
            let place = Box::new((guard, counted));
            if accepted.database == DATABASE && accepted.replication == Replication::None {
                console::serve(worker, *accepted, Arc::clone(&door.console), place).await;
            } else {
                session::serve(worker, *accepted, place).await;
            }
        }
        Ok(Outcome::Cancel { process_id, secret, stream }) => {
            worker.shared().cancels.cancel(process_id, &secret);
            drop(stream);
        }
        Err(error) => {
            door.logins.count(result_of(&error));
            tracing::debug!(%peer, %error, "login failed");
        }
    }
}

fn result_of(error: &HandshakeError) -> LoginResult {
    match error {
        HandshakeError::Refused { .. } => LoginResult::Refused,
        HandshakeError::Timeout => LoginResult::Timeout,
        HandshakeError::Closed | HandshakeError::Io(_) | HandshakeError::Tls(_) => LoginResult::Gone,
    }
}

/// One client in the count.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(sessions: &Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
