//! The processes of this machine, as /proc shows them: who descends from whom, and signals to them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// All descendants of a process, parents before children. Empty when it is gone.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut at = root;
    for next in 0.. {
        found.extend(children.remove(&at).unwrap_or_default());
        match found.get(next) {
            Some(&pid) => at = pid,
            None => break,
        }
    }
    found
}

/// Sends a signal; a process that is gone is no error.
pub(super) fn signal(pid: u32, signal: Signal) {
    // Only a process that has ended, or one that was never ours, can refuse, and neither can be helped.
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Sends a signal to every descendant, until a look finds none that has not had it: some fork meanwhile.
pub(super) fn signal_descendants(root: u32, number: Signal) {
    let mut had = HashSet::new();
    for _ in 0..50 {
        let new: Vec<u32> = descendants(root).into_iter().filter(|pid| had.insert(*pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new {
            signal(pid, number);
        }
    }
}

/// Kills until no descendant is left. False if some are left at the deadline.
pub(super) async fn kill_descendants(root: u32, deadline: Duration) -> bool {
    let end = tokio::time::Instant::now() + deadline;
    loop {
        let left: Vec<u32> = descendants(root).into_iter().filter(|pid| !is_zombie(*pid)).collect();
        if left.is_empty() {
            return true;
        }
        if tokio::time::Instant::now() > end {
            return false;
        }
        for pid in left {
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs: it exists and is not a zombie.
pub(super) fn runs(pid: u32) -> bool {
    status_fields(pid).is_some_and(|fields| !fields.starts_with('Z'))
}

/// Whether a process is stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    status_fields(pid).is_some_and(|fields| fields.starts_with('T'))
}

fn is_zombie(pid: u32) -> bool {
    !runs(pid)
}

fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    status_fields(pid)?.split(' ').nth(1)?.parse().ok()
}

/// The fields of /proc/PID/stat from the state on; the name before it may hold anything.
fn status_fields(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_and_signals_grandchildren() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is there");
        let mut line = String::new();
        let stdout = shell.stdout.as_mut().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        let below = descendants(std::process::id());
        let child = shell.id();
        let grandchildren = descendants(child);
        assert!(below.contains(&child) && grandchildren.len() == 1 && below.contains(&grandchildren[0]));
        signal_descendants(child, Signal::SIGKILL);
        shell.wait().expect("the shell ends with its child");
        assert!(!runs(grandchildren[0]) && descendants(child).is_empty());
    }
}
