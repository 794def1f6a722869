//! Everything that a lab starts dies with it, also when the lab gets SIGKILL.
//!
//! The reaper is this binary again, in a process group of its own, with a pipe from the lab. When the pipe closes,
//! however the lab ended, it kills what was registered and removes the lab's directory. Should the reaper be killed
//! too, the next lab sweeps up what it finds. A process is known by its id and its start time, so that a reused id
//! is never killed.

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead as _, Write as _};
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

/// Time to end in good order.
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
        fs::write(path.join(OWNER), own)?;
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
        reaper.tell(&format!("dir {}", dir.path().display()))?;
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
    let (mut processes, mut dirs) = (Vec::new(), Vec::new());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("process", identity)) => processes.push(identity.to_owned()),
            Some(("dir", dir)) => dirs.push(PathBuf::from(dir)),
            _ => eprintln!("reaper: unknown line {line:?}"),
        }
    }
    end(&processes);
    for dir in dirs {
        let _best_effort = fs::remove_dir_all(dir);
    }
    ExitCode::SUCCESS
}

/// Ends what labs left in `root` whose owner is gone.
pub fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_lab = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Some(owner) = is_lab.then(|| fs::read_to_string(path.join(OWNER)).ok()).flatten() else { continue };
        if is_alive(owner.trim()) {
            continue;
        }
        let processes = fs::read_to_string(path.join(PROCESSES)).unwrap_or_default();
        end(&processes.lines().map(str::to_owned).collect::<Vec<_>>());
        let _best_effort = fs::remove_dir_all(path);
    }
}

/// Ends these processes, then kills what is left of them and of their descendants, and waits until they are gone.
fn end(identities: &[String]) {
    let alive = || identities.iter().filter(|i| is_alive(i)).filter_map(|i| pid_of(i)).collect::<Vec<u32>>();
    // PostgreSQL's immediate shutdown: it takes its children and its shared memory with it.
    kill(&alive(), Signal::QUIT);
    let began = Instant::now();
    while !alive().is_empty() && began.elapsed() < GONE_WITHIN {
        if began.elapsed() > QUIT_WITHIN {
            kill(&with_descendants(&alive()), Signal::KILL);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn kill(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok()).filter_map(Pid::from_raw) {
        let _already_gone = kill_process(pid, signal);
    }
}

fn with_descendants(roots: &[u32]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter_map(|pid: u32| Some((pid, stat_field(pid, 4)?.parse().ok()?)))
        .collect();
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(parents.iter().filter(|(_, ppid)| *ppid == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    found
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
