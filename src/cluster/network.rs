//! Which port is whose.

use super::Error;
use super::options::Options;
use super::ports::Port;
use super::relay::Route;
use super::saved::{Saved, SavedPorts};

/// The ports of a cluster and the relays between them.
pub(super) struct Network {
    pub(super) etcd: u16,
    pub(super) etcd_peer: u16,
    pub(super) members: Vec<SavedPorts>,
    /// Those of servers, which are to be held while the cluster lives.
    pub(super) held: Vec<Port>,
    /// What the relays pass on.
    pub(super) routes: Vec<Route>,
}

impl Network {
    /// The ports that the cluster had, as far as they are free, else others.
    pub(super) fn new(options: &Options, saved: &Saved) -> Result<Self, Error> {
        let etcd = Port::preferably(saved.etcd_port)?;
        let etcd_peer = Port::preferably(saved.etcd_peer_port)?;
        let mut network = Self {
            etcd: etcd.number(),
            etcd_peer: etcd_peer.number(),
            members: Vec::new(),
            held: vec![etcd, etcd_peer],
            routes: Vec::new(),
        };
        for member in 0..options.members {
            let ports = network.member(member, saved.members.get(member).copied(), options.relays)?;
            network.members.push(ports);
        }
        Ok(network)
    }

    fn member(
        &mut self,
        member: usize,
        before: Option<SavedPorts>,
        relays: bool,
    ) -> Result<SavedPorts, Error> {
        let postgres = self.hold(before.map(|ports| ports.postgres))?;
        let api = self.hold(before.map(|ports| ports.api))?;
        let mut ports = SavedPorts { postgres, api, ..SavedPorts::default() };
        if relays {
            let before = before.unwrap_or_default();
            ports.postgres_relay = Some(self.route(before.postgres_relay, postgres, member)?);
            ports.api_relay = Some(self.route(before.api_relay, api, member)?);
            ports.etcd_relay = Some(self.route(before.etcd_relay, self.etcd, member)?);
        }
        Ok(ports)
    }

    fn hold(&mut self, before: Option<u16>) -> Result<u16, Error> {
        let port = Port::preferably(before)?;
        let number = port.number();
        self.held.push(port);
        Ok(number)
    }

    fn route(&mut self, before: Option<u16>, to: u16, member: usize) -> Result<u16, Error> {
        let port = Port::preferably(before)?;
        let number = port.number();
        self.routes.push(Route { port, to, member });
        Ok(number)
    }
}
