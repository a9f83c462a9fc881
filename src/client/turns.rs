//! Turns to log in: so many at once, in the order of their coming, and no address has more than half of them.
//!
//! Who connects and says nothing, or fails over and over, holds or awaits the places of its own address alone.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::Semaphore;

/// The places of `limits.logins`.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    each: usize,
    lanes: DashMap<IpAddr, Arc<Semaphore>, foldhash::fast::RandomState>,
}

/// The places of one address; forgotten with the last who uses them.
struct Lane<'t> {
    turns: &'t Turns,
    address: IpAddr,
    places: Option<Arc<Semaphore>>,
}

impl Turns {
    /// So many places.
    pub fn new(places: usize) -> Self {
        Self { all: Semaphore::new(places), each: places.div_ceil(2), lanes: DashMap::default() }
    }

    /// How many places are free.
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// Does the work when it is its turn. Waiting is bounded by whoever drops this.
    pub(super) async fn take<T>(&self, address: IpAddr, work: impl Future<Output = T>) -> T {
        let lane = self.lane(address);
        // Neither is ever closed. The lane first: those who wait in it stand in nobody else's way.
        let _place = match &lane.places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let _turn = self.all.acquire().await.ok();
        work.await
    }

    fn lane(&self, address: IpAddr) -> Lane<'_> {
        let address = source(address);
        let places = self.lanes.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        Lane { turns: self, address, places: Some(Arc::clone(&places)) }
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.places = None;
        self.turns.lanes.remove_if(&self.address, |_, places| Arc::strong_count(places) == 1);
    }
}

/// What counts as one address: of IPv6 the first 64 bits, within which a host takes as many as it likes.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    async fn comes_at_once(turns: &Turns, address: &str) -> bool {
        let turn = turns.take(address.parse().unwrap(), ready(()));
        tokio::time::timeout(Duration::from_millis(50), turn).await.is_ok()
    }

    #[tokio::test]
    async fn one_address_does_not_take_all_places() {
        let turns = Arc::new(Turns::new(4));
        let (bad, worse) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::".parse::<Ipv6Addr>().unwrap());
        let holds = |address: IpAddr| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.take(address, pending::<()>()).await })
        };
        let silent: Vec<_> = (0..20).map(|_| holds(bad)).collect();
        tokio::task::yield_now().await;
        assert!(!comes_at_once(&turns, "192.0.2.1").await);
        assert!(!comes_at_once(&turns, "::ffff:192.0.2.1").await, "the same address");
        assert!(comes_at_once(&turns, "192.0.2.2").await);
        // A network of IPv6 is one.
        let more: Vec<_> = (0..20).map(|n| holds(Ipv6Addr::from_bits(worse.to_bits() + n).into())).collect();
        tokio::task::yield_now().await;
        assert!(!comes_at_once(&turns, "192.0.2.2").await, "all places are taken by two");
        for task in silent.into_iter().chain(more) {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert!(comes_at_once(&turns, "192.0.2.2").await);
        assert!(turns.lanes.is_empty(), "nobody is remembered");
    }

    #[tokio::test]
    async fn who_comes_first_has_the_first_turn() {
        let turns = Arc::new(Turns::new(1));
        let (free, gate) = tokio::sync::oneshot::channel::<()>();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let one = |n: u8, wait: Option<tokio::sync::oneshot::Receiver<()>>| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            let work = async move {
                if let Some(gate) = wait {
                    gate.await.unwrap();
                }
                order.lock().unwrap().push(n);
            };
            tokio::spawn(async move { turns.take(IpAddr::from([192, 0, 2, n]), work).await })
        };
        let mut tasks = vec![one(0, Some(gate))];
        tokio::task::yield_now().await;
        tasks.extend((1..6).map(|n| one(n, None)));
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty());
        free.send(()).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    }
}
