//! Opening a backend for a pool, and sending a cancel to one: on a worker, beside its sessions.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::shared::Identity;
use super::{Session, Worker};
use crate::backend::{self, Backend, ConnectError, Login, Server, Settings};
use crate::net::reactor;
use crate::pool::{AcquireError, Permit};
use crate::topology::Member;

/// Connects to the member of this number and logs in as the identity.
pub(super) async fn open(
    worker: &Rc<Worker>,
    identity: &Arc<Identity>,
    member: u16,
    permit: Permit,
) -> Result<Box<Backend>, AcquireError> {
    let topology = worker.topology();
    let Some(member) = topology.members.iter().find(|known| known.id.0 == member) else {
        return Err(AcquireError::Moved);
    };
    let shared = &worker.shared;
    let tls = shared.backend_tls.load_full();
    let credentials = identity.credentials.load_full();
    let login = Login {
        credentials: &credentials,
        database: &identity.database,
        // No application_name: it would be in place of what the role or the database sets, and what RESET goes back to.
        parameters: &[],
    };
    let connected =
        backend::connect(&server(worker, member, &tls), &login).await.map_err(|error| refusal(&error))?;
    connected.stream.in_turns();
    let now = Instant::now();
    Ok(Box::new(Backend {
        local: connected.stream.tcp().local_addr().ok(),
        stream: connected.stream,
        member: member.id.0,
        generation: topology.lease_generation(member),
        process_id: connected.process_id,
        secret: connected.secret,
        settings: Arc::new(Settings::default()),
        parameters: Arc::new(connected.parameters),
        prepared: std::collections::HashMap::default(),
        unnamed: 0,
        last_session: 0,
        stash: Vec::new(),
        opened: now,
        idle_since: now,
        permit: Box::new(permit),
    }))
}

pub(super) fn server<'a>(
    worker: &'a Worker,
    member: &'a Member,
    tls: &'a crate::net::tls::ClientTls,
) -> Server<'a> {
    let config = &worker.shared.config;
    Server {
        host: &member.host,
        port: member.port,
        tls,
        keep_alive: &config.limits.keep_alive,
        timeout: config.pool.connect_timeout,
    }
}

/// Whose fault it is that no backend could be opened, and whether another member or another moment helps.
pub(super) fn refusal(error: &ConnectError) -> AcquireError {
    match error.server_error() {
        _ if error.is_transient() => AcquireError::Unreachable(error.to_string().into()),
        Some(server) => AcquireError::Refused(server.body().into()),
        None => AcquireError::Login(error.to_string().into()),
    }
}

impl Session {
    /// Asks the server to cancel what the session's backend runs. That backend serves nobody else afterwards: the cancel could
    /// reach it late. While one is on its way no second is sent: each is a connection with a TLS handshake of its own, and a
    /// client that asks ever again would have all of them time out.
    pub(super) fn send_cancel(&mut self) {
        let Some(lease) = self.lease.as_mut() else { return };
        lease.cancelled = true;
        let cancelling = Rc::clone(lease.cancelling.get_or_insert_default());
        if cancelling.replace(true) {
            return;
        }
        let key = (lease.backend.process_id, lease.backend.secret.clone());
        let member = lease.backend.member;
        self.cancel_at(member, key, cancelling);
    }

    /// Sends a cancel for the connection with this key to the member of this number; `cancelling` is set until it is there.
    pub(super) fn cancel_at(
        &self,
        number: u16,
        (process_id, secret): (u32, Box<[u8]>),
        cancelling: Rc<Cell<bool>>,
    ) {
        let worker = Rc::clone(&self.worker);
        reactor::spawn(async move {
            let topology = worker.topology();
            let tls = worker.shared.backend_tls.load_full();
            if let Some(member) = topology.members.iter().find(|member| member.id.0 == number)
                && let Err(error) = backend::cancel(&server(&worker, member, &tls), process_id, &secret).await
            {
                tracing::info!(member = %member.name, %error, "cancel not delivered");
            }
            cancelling.set(false);
        });
    }
}
