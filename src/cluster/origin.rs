//! What the kernel's tables show of connections: which ports are listened on, and which member a connection to a relay
//! comes from. A partition also cuts what the member itself has opened, its replication above all.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
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

/// The ports that somebody listens on, at 127.0.0.1 or at every address. The kernel names the listening sockets first,
/// and no more than those is read: this is asked many times a second, and there may be thousands of others.
pub(super) fn listening() -> HashSet<u16> {
    let Ok(table) = File::open("/proc/net/tcp") else { return HashSet::new() };
    let lines = BufReader::with_capacity(4096, table).lines().map_while(Result::ok).skip(1);
    let entries = lines.map_while(|line| socket(&line).filter(|socket| socket.state == LISTEN));
    entries.filter(|socket| matches!(socket.address, LOOPBACK | ANY)).map(|socket| socket.port).collect()
}

const LISTEN: u8 = 0x0A;
/// Addresses as the table has them, in the byte order of x86 and ARM.
const LOOPBACK: u32 = 0x0100_007F;
const ANY: u32 = 0;

/// The local side of an entry of /proc/net/tcp.
struct Socket {
    address: u32,
    port: u16,
    state: u8,
}

fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    Some(Socket {
        address: u32::from_str_radix(address, 16).ok()?,
        port: u16::from_str_radix(port, 16).ok()?,
        state,
    })
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn sees_who_listens_and_who_connects() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = server.local_addr().expect("bound").port();
        assert!(listening().contains(&port));
        let client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let from = client.local_addr().expect("connected").port();
        assert!(!listening().contains(&from), "a connection is no listener");
        assert!(
            inode(from, port).is_some_and(|inode| has_open(std::process::id(), &format!("socket:[{inode}]")))
        );
        drop(server);
        assert!(!listening().contains(&port));
    }
}
