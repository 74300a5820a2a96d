//! The processes of a server: PostgreSQL has one for each connection, each in a process group of its own.

use std::path::Path;
use std::process::Command;

/// Sends a signal to processes that this test has started, or that those have. One that has ended meanwhile is passed over.
pub(super) fn signal(name: &str, members: &[u32]) {
    let ids = members.iter().map(u32::to_string);
    let sent = Command::new("kill").arg(format!("-{name}")).args(ids).output();
    sent.expect("`kill` can be started");
}

/// The children of a process.
pub(super) fn children(parent: u32) -> Vec<u32> {
    all().into_iter().filter(|process| process.parent == parent).map(|process| process.id).collect()
}

/// Whether a process lives. One that has ended and was not waited for does not.
pub(super) fn lives(id: u32) -> bool {
    all().iter().any(|process| process.id == id && !process.ended)
}

struct Process {
    id: u32,
    parent: u32,
    ended: bool,
}

/// `ps` is there on macOS, and not in every container.
fn all() -> Vec<Process> {
    if Path::new("/proc/self/stat").exists() { all_by_proc() } else { all_by_ps() }
}

fn all_by_proc() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be read");
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // The name of a program may hold anything, a bracket too.
    let parse = |line: String| {
        let (id, rest) = (line.split(' ').next()?.to_owned(), line.rsplit_once(") ")?.1);
        let mut fields = rest.split(' ');
        of_fields(&id, fields.next()?, fields.next()?)
    };
    lines.filter_map(parse).collect()
}

fn all_by_ps() -> Vec<Process> {
    let listed = Command::new("ps")
        .args(["-A", "-o", "pid=", "-o", "stat=", "-o", "ppid="])
        .output()
        .expect("`ps` can be started");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        of_fields(fields.next()?, fields.next()?, fields.next()?)
    };
    text.lines().filter_map(parse).collect()
}

fn of_fields(id: &str, state: &str, parent: &str) -> Option<Process> {
    Some(Process { id: id.parse().ok()?, parent: parent.parse().ok()?, ended: state.starts_with('Z') })
}
