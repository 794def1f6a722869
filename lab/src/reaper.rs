//! Everything that a lab starts dies with it, also when the lab gets SIGKILL.
//!
//! The reaper is this binary again, in a process group of its own, with a pipe from the lab. When the pipe closes,
//! however the lab ended, it kills what was registered and removes the lab's directory. Should the reaper be killed
//! too, the next lab sweeps up what it finds. A process is known by its id and its start time, so that a reused id
//! is never killed; a PostgreSQL server that nobody registered in time is known by the directory that it works in.

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PREFIX: &str = "aurora-failover-lab-";
const OWNER: &str = "owner";
const PROCESSES: &str = "processes";

/// Least free space that a memory file system must have.
const FREE_MIN_BYTES: u64 = 1 << 30;

/// Name of PostgreSQL's processes.
const SERVER: &str = "postgres";

/// Time for PostgreSQL to end in good order.
const QUIT_WITHIN: Duration = Duration::from_secs(2);

/// Longest time to wait for killed processes to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The directory of one lab.
#[derive(Debug)]
pub struct LabDir {
    path: PathBuf,
}

impl LabDir {
    /// Makes a new one, in memory where there is room, after sweeping up what dead labs left.
    ///
    /// # Errors
    /// When no directory can be made.
    pub fn create() -> Result<Self> {
        for root in roots() {
            sweep(&root);
        }
        let root = roots().into_iter().next().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&root);
        let path = dir.with_context(|| format!("making a directory in {}", root.display()))?.keep();
        // The servers of a lab that runs as root run as another user.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let own = identity(std::process::id()).context("this process is not in /proc")?;
        // At once and whole: a sweeping lab must not read half of it.
        fs::write(path.join("owner.new"), own)?;
        fs::rename(path.join("owner.new"), path.join(OWNER))?;
        Ok(Self { path })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Directories of the labs that run on this machine.
pub(crate) fn running_labs() -> Vec<PathBuf> {
    let entries = roots().into_iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten();
    let labs = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)));
    labs.filter(|path| fs::read_to_string(path.join(OWNER)).is_ok_and(|owner| is_alive(owner.trim()))).collect()
}

/// Where labs may live, best first.
fn roots() -> Vec<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    let roomy = rustix::fs::statvfs(&memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize > FREE_MIN_BYTES);
    let writable = rustix::fs::access(&memory, rustix::fs::Access::WRITE_OK).is_ok();
    let memory = (roomy && writable).then_some(memory);
    memory.into_iter().chain([std::env::temp_dir()]).collect()
}

/// The lab's end of the reaper.
pub struct Reaper {
    child: Mutex<Child>,
    pipe: Mutex<Option<ChildStdin>>,
    processes: PathBuf,
}

impl Reaper {
    /// Starts it as `exe arguments…`; that must call [`main`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(exe: &Path, arguments: &[&str], dir: &LabDir) -> Result<Self> {
        let mut child = Command::new(exe)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the reaper")?;
        let pipe = child.stdin.take();
        let reaper = Self { child: Mutex::new(child), pipe: Mutex::new(pipe), processes: dir.path().join(PROCESSES) };
        reaper.register_dir(dir.path())?;
        Ok(reaper)
    }

    /// This process, and its descendants, shall not survive the lab.
    ///
    /// # Errors
    /// When the reaper is gone.
    pub fn register(&self, pid: u32) -> Result<()> {
        // Already ended: nothing to reap.
        let Some(identity) = identity(pid) else { return Ok(()) };
        let mut file = fs::File::options().create(true).append(true).open(&self.processes)?;
        writeln!(file, "{identity}")?;
        self.tell(&format!("process {identity}"))
    }

    /// This process has ended, as intended.
    ///
    /// # Errors
    /// When the reaper is gone.
    pub fn forget(&self, pid: u32) -> Result<()> {
        self.tell(&format!("gone {pid}"))
    }

    /// This directory shall not survive the lab either.
    ///
    /// # Errors
    /// When the reaper is gone.
    pub fn register_dir(&self, dir: &Path) -> Result<()> {
        self.tell(&format!("dir {}", dir.display()))
    }

    fn tell(&self, line: &str) -> Result<()> {
        let mut pipe = self.pipe.lock().expect("no panic while it is held");
        let pipe = pipe.as_mut().context("the reaper has no pipe")?;
        writeln!(pipe, "{line}").context("the reaper is gone")
    }
}

impl Drop for Reaper {
    /// Lets it do its work, and waits for it.
    fn drop(&mut self) {
        drop(self.pipe.lock().expect("no panic while it is held").take());
        let _ended = self.child.lock().expect("no panic while it is held").wait();
    }
}

/// The reaper itself: reads until the lab is gone, then reaps.
#[must_use]
pub fn main() -> ExitCode {
    serve(std::io::stdin().lock());
    ExitCode::SUCCESS
}

/// Reads `process <pid> <start time>`, `gone <pid>` and `dir <path>`, one per line; reaps at the end of them.
fn serve(lines: impl BufRead) {
    let (mut processes, mut dirs) = (Vec::<String>::new(), Vec::new());
    for line in lines.lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("process", identity)) => processes.push(identity.to_owned()),
            Some(("gone", pid)) => processes.retain(|known| pid_of(known) != pid.parse().ok()),
            Some(("dir", dir)) => dirs.push(PathBuf::from(dir)),
            _ => eprintln!("reaper: unknown line {line:?}"),
        }
    }
    end(&processes, &dirs);
    for dir in dirs {
        let _best_effort = fs::remove_dir_all(dir);
    }
}

/// Ends what labs left in `root` whose owner is gone.
pub fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_lab = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Anyone may write to the roots: what another user left could name any process of ours.
        let is_own = fs::symlink_metadata(&path)
            .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw());
        let owner = (is_lab && is_own).then(|| fs::read_to_string(path.join(OWNER)).ok());
        let Some(owner) = owner.flatten() else { continue };
        if is_alive(owner.trim()) {
            continue;
        }
        let processes = fs::read_to_string(path.join(PROCESSES)).unwrap_or_default();
        end(&processes.lines().map(str::to_owned).collect::<Vec<_>>(), std::slice::from_ref(&path));
        let _best_effort = fs::remove_dir_all(path);
    }
}

/// Ends these processes, their descendants, and servers that work in these directories; waits until they are gone.
///
/// A server gets an immediate shutdown first, which takes its children and its shared memory with it.
fn end(identities: &[String], dirs: &[PathBuf]) {
    let dirs: Vec<PathBuf> = dirs.iter().filter_map(|dir| fs::canonicalize(dir).ok()).collect();
    let registered = || identities.iter().filter(|known| is_alive(known)).filter_map(|known| pid_of(known));
    // Children of a dead server have another parent and a process group of their own.
    let alive = || registered().chain(servers_in(&dirs)).collect::<BTreeSet<u32>>();
    let (servers, others): (BTreeSet<u32>, BTreeSet<u32>) = alive().into_iter().partition(|pid| is_server(*pid));
    kill(&with_descendants(&others), Signal::KILL);
    kill(&servers, Signal::QUIT);
    // A stopped one would not notice.
    kill(&servers, Signal::CONT);
    let began = Instant::now();
    let mut left = alive();
    while !left.is_empty() && began.elapsed() < GONE_WITHIN {
        if began.elapsed() > QUIT_WITHIN {
            kill(&with_descendants(&left), Signal::KILL);
        }
        std::thread::park_timeout(Duration::from_millis(20));
        left = alive();
    }
}

/// Signals processes, and the groups that they lead.
pub(crate) fn kill(pids: &BTreeSet<u32>, signal: Signal) {
    for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok()).filter_map(Pid::from_raw) {
        let leads = signal == Signal::KILL && getpgid(Some(pid)).is_ok_and(|group| group == pid);
        let _already_gone = if leads { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }
}

pub(crate) fn with_descendants(roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = running().filter_map(|pid| Some((pid, stat_field(pid, 4)?.parse().ok()?))).collect();
    let mut found = roots.clone();
    let mut todo: Vec<u32> = roots.iter().copied().collect();
    while let Some(parent) = todo.pop() {
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid);
        todo.extend(children.filter(|child| found.insert(*child)));
    }
    found
}

fn running() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

/// Servers whose working directory, which is their data directory, lies in one of these.
fn servers_in(dirs: &[PathBuf]) -> impl Iterator<Item = u32> {
    running().filter(|pid| is_server(*pid)).filter(move |pid| {
        let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
        works_in.is_ok_and(|cwd| dirs.iter().any(|dir| cwd.starts_with(dir)))
    })
}

fn is_server(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end() == SERVER) && stat_field(pid, 3).is_some_and(|state| state != "Z")
}

/// `<pid> <start time>`, if the process exists and is not a zombie.
fn identity(pid: u32) -> Option<String> {
    let running = stat_field(pid, 3)? != "Z";
    running.then(|| Some(format!("{pid} {}", stat_field(pid, 22)?)))?
}

fn pid_of(identity: &str) -> Option<u32> {
    identity.split_once(' ')?.0.parse().ok()
}

fn is_alive(known: &str) -> bool {
    pid_of(known).and_then(identity).is_some_and(|now| now == known)
}

/// A field of `/proc/<pid>/stat`, counted from 1 as in proc(5); only fields after the name.
fn stat_field(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(field - 3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = identity(std::process::id()).expect("we run");
        assert!(is_alive(&own));
        assert!(!is_alive(&format!("{} 1", std::process::id())));
    }

    #[test]
    fn at_the_end_of_its_input_the_reaper_ends_groups_and_removes_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("lab");
        fs::create_dir(&dir).expect("a directory");
        // A shell that leads a group, with a child in it.
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", "sleep 600 & wait"]).process_group(0).spawn().expect("sh starts");
        let mut spared = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let (shell_id, spared_id) = (identity(shell.id()).expect("runs"), identity(spared.id()).expect("runs"));
        let own_child = || with_descendants(&BTreeSet::from([shell.id()])).into_iter().find(|pid| *pid != shell.id());
        let began = Instant::now();
        let child = loop {
            match own_child() {
                Some(child) => break identity(child).expect("it runs"),
                None => assert!(began.elapsed() < GONE_WITHIN, "the shell starts its child"),
            }
        };
        let input = format!(
            "process {shell_id}\nprocess {spared_id}\nprocess {} 1\ngone {}\nnonsense\ndir {}\n",
            std::process::id(),
            spared.id(),
            dir.display()
        );
        let waiter = std::thread::spawn(move || shell.wait());
        serve(input.as_bytes());
        assert!(waiter.join().expect("no panic").is_ok_and(|status| !status.success()));
        let began = Instant::now();
        while is_alive(&child) {
            assert!(began.elapsed() < GONE_WITHIN, "the child of the shell is killed too");
        }
        assert!(!dir.exists());
        assert!(is_alive(&spared_id), "what was forgotten is spared, and a reused id is");
        spared.kill().expect("it runs");
        spared.wait().expect("it ends");
    }

    #[test]
    fn a_half_made_lab_is_not_swept() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join(format!("{PREFIX}new"));
        fs::create_dir(&dir).expect("a directory");
        sweep(root.path());
        assert!(dir.exists());
    }

    #[test]
    fn what_a_dead_lab_left_is_swept_up_and_a_living_lab_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let lab = |name: &str, owner: &str, processes: &str| {
            let dir = root.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&dir).expect("a directory");
            fs::write(dir.join(OWNER), owner).expect("a file");
            fs::write(dir.join(PROCESSES), processes).expect("a file");
            dir
        };
        let mut left = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let left_identity = identity(left.id()).expect("it runs");
        let dead = lab("dead", "1 1", &left_identity);
        let living = lab("living", &identity(std::process::id()).expect("we run"), "");
        // Reaped by its parent, which here is this test.
        let waiter = std::thread::spawn(move || left.wait());
        sweep(root.path());
        assert!(waiter.join().expect("no panic").is_ok_and(|status| !status.success()));
        assert!(!dead.exists());
        assert!(living.exists());
    }
}
