//! What the kernel's tables show of connections: which ports are listened on, and which member a connection to a relay
//! comes from. A partition also cuts what the member itself has opened, its replication above all.

use std::sync::Mutex;

use super::processes;

/// The members' keepers by the member's number.
#[derive(Debug, Default)]
pub(super) struct Origins(Mutex<Vec<Vec<u32>>>);

impl Origins {
    /// Notes the keepers that a member's processes descend from.
    pub(super) fn set(&self, member: usize, pids: Vec<u32>) {
        let mut keepers = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if keepers.len() <= member {
            keepers.resize(member + 1, Vec::new());
        }
        keepers[member] = pids;
    }

    /// The number of the member that one of the loopback's connections was opened by, seen from its two ports. `None`
    /// for clients that are no member.
    pub(super) fn of_connection(&self, from_port: u16, to_port: u16) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(from_port, to_port)?);
        let keepers = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let owns =
            |keeper: &u32| processes::descendants(*keeper).into_iter().any(|pid| has_open(pid, &socket));
        keepers.iter().position(|pids| pids.iter().any(owns))
    }
}

/// The inode of the connecting side's socket, from /proc/net/tcp.
fn inode(from_port: u16, to_port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (from, to) = (format!("0100007F:{from_port:04X}"), format!("0100007F:{to_port:04X}"));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&from.as_str()) && fields.get(2) == Some(&to.as_str()))
            .then(|| fields.get(9)?.parse().ok())?
    })
}

/// The ports that somebody listens on, at 127.0.0.1 or at every address.
pub(super) fn listening() -> impl Iterator<Item = u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let ports: Vec<u16> = table.lines().filter_map(listener).collect();
    ports.into_iter()
}

fn listener(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let listens = fields.nth(1)? == "0A" && matches!(address, "0100007F" | "00000000");
    listens.then(|| u16::from_str_radix(port, 16).ok())?
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket))
}
