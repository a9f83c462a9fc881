//! Watches each member by a connection of its own, past the proxy and the relays: since when it takes writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pg_ha_proxy::cluster::Status;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::journal::now;
use crate::stage::application;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(20);

/// A write that a member took and acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) member: String,
    pub(crate) at: f64,
    /// In hexadecimal.
    pub(crate) timeline: String,
}

/// The looks at all members.
pub(crate) struct Probe {
    taken: Arc<Mutex<Vec<Taken>>>,
    _tasks: JoinSet<()>,
}

impl Probe {
    /// Begins to look.
    pub(crate) fn start(status: &Status) -> Self {
        let taken = Arc::<Mutex<Vec<Taken>>>::default();
        let mut tasks = JoinSet::new();
        for member in &status.members {
            let config = application(status, member.direct_port);
            tasks.spawn(watch(member.name.clone(), config, Arc::clone(&taken)));
        }
        Self { taken, _tasks: tasks }
    }

    /// The writes that members took, in order.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        taken.sort_by(|a, b| a.at.total_cmp(&b.at));
        taken
    }
}

async fn watch(member: String, config: Config, taken: Arc<Mutex<Vec<Taken>>>) {
    loop {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            let driver = tokio::spawn(connection);
            while let Ok(timeline) = look(&client).await {
                if let Some(timeline) = timeline {
                    let taken_now = Taken { member: member.clone(), at: now(), timeline };
                    taken.lock().unwrap_or_else(PoisonError::into_inner).push(taken_now);
                }
                tokio::time::sleep(EVERY).await;
            }
            driver.abort();
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Writes, if it is no standby; the timeline then.
async fn look(client: &Client) -> Result<Option<String>, Error> {
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    if row.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "UPDATE probe SET n = n + 1 RETURNING left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    let row = client.query_one(sql, &[]).await?;
    Ok(Some(row.get(0)))
}
