//! One PostgreSQL server: made from a template, started, asked, ended.

use super::binaries::{Binaries, cache_dir};
use crate::reaper::{self, Reaper};
use anyhow::{Context as _, Result, bail};
use md5::{Digest as _, Md5};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

/// Longest time that a server may take to accept connections.
const START_MAX: Duration = Duration::from_secs(60);

/// Longest time for one attempt to open a session.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// A free port may be taken by someone else before the server has it.
const PORT_TRIES_MAX: u32 = 5;

/// Lines of a server's log that an error shows.
const LOG_LINES_SHOWN: usize = 10;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Settings of every server. What differs per node comes after them.
///
/// `fsync = off`: the lab's faults are about networks and processes, not about power; the servers' memory survives.
/// `dynamic_shared_memory_type`: so that it lies in the lab's directory and goes with it.
/// `wal_retrieve_retry_interval`: its default of 5 s would delay some promotions by as much.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = '16MB'
dynamic_shared_memory_type = mmap
fsync = off
wal_log_hints = on
wal_keep_size = '128MB'
max_wal_senders = 10
wal_retrieve_retry_interval = '100ms'
wal_receiver_status_interval = '1s'
wal_receiver_timeout = '5s'
wal_sender_timeout = '5s'
log_line_prefix = '%m [%p] '
";

/// What the template holds beyond an empty server: the application's role and database, and Aurora's status
/// function on top of a heartbeat row that the lab keeps writing.
const TEMPLATE_SQL: &str = "
CREATE SCHEMA lab;
CREATE TABLE lab.heartbeat (one int PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO lab.heartbeat VALUES (1, now());
CREATE FUNCTION aurora_global_db_status() RETURNS TABLE (
    aws_region text, highest_lsn_written bigint, durability_lag_in_msec bigint, rpo_lag_in_msec bigint,
    last_lag_calculation_time timestamptz, feedback_epoch int, feedback_xmin int)
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT current_setting('lab.region'),
        CASE WHEN replica THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')
             ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END::bigint,
        CASE WHEN replica THEN lag_ms ELSE -1 END, CASE WHEN replica THEN lag_ms ELSE -1 END,
        clock_timestamp(), 0, 0
    FROM (SELECT pg_is_in_recovery() AS replica,
        greatest(0, extract(epoch FROM clock_timestamp() - at) * 1000)::bigint AS lag_ms
        FROM lab.heartbeat) AS seen
$$;
";

/// The user that servers run as when the lab runs as root: PostgreSQL refuses to be root.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunAs {
    uid: u32,
    gid: u32,
}

impl RunAs {
    /// None when this process is not root.
    pub(super) fn needed() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let nobody = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let nobody = nobody.filter(|fields| fields.len() > 3).find(|fields| fields[0] == "nobody");
        let fields = nobody.context("PostgreSQL refuses to run as root, and /etc/passwd has no user nobody")?;
        Ok(Some(Self { uid: fields[2].parse()?, gid: fields[3].parse()? }))
    }
}

/// Makes a command run as that user, in a directory that it can enter.
fn command(program: &Path, run_as: Option<RunAs>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C").env_remove("PGDATA");
    if let Some(user) = run_as {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Gives `dir` to that user.
pub(super) fn own(dir: &Path, run_as: Option<RunAs>) -> Result<()> {
    if let Some(user) = run_as {
        std::os::unix::fs::chown(dir, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// An initialized server, not running, to be copied. Made once per version and kept.
pub(super) async fn template(
    binaries: &Binaries,
    reaper: &Reaper,
    run_as: Option<RunAs>,
    database: &str,
) -> Result<PathBuf> {
    // Other SQL or settings are another template.
    let key = u128::from_be_bytes(Md5::digest([SETTINGS, TEMPLATE_SQL].concat()).into()) as u32;
    let cache = cache_dir().join("templates");
    let ready = cache.join(format!("{}-{database}-{key:08x}", binaries.version));
    if ready.is_dir() {
        return Ok(ready);
    }
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let building = tempfile::Builder::new().prefix("building-").tempdir_in(&cache)?;
    reaper.register_dir(building.path())?;
    fs::set_permissions(building.path(), fs::Permissions::from_mode(0o755))?;
    let data = building.path().join("data");
    fs::create_dir(&data)?;
    own(&data, run_as)?;
    let output = command(&binaries.program("initdb"), run_as)
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--data-checksums"])
        .args(["--wal-segsize=1", "--no-sync", "-D"])
        .arg(&data)
        .output()
        .await
        .context("running initdb")?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let log = building.path().join("template.log");
    let mut node = Node::start(binaries, reaper, run_as, "template", &data, &log, "").await?;
    let client = node.connect("postgres").await?;
    client.batch_execute("CREATE ROLE app LOGIN").await?;
    client.batch_execute(&format!("CREATE DATABASE \"{database}\" OWNER app")).await?;
    drop(client);
    node.connect(database).await?.batch_execute(TEMPLATE_SQL).await.context("setting up the template")?;
    node.stop(reaper).await?;
    // Two labs may build at once: the first one wins, the other's is as good.
    if fs::rename(&data, &ready).is_err() && !ready.is_dir() {
        bail!("cannot move the template to {}", ready.display());
    }
    Ok(ready)
}

/// How servers are started.
pub(super) struct Launcher {
    pub(super) binaries: Binaries,
    pub(super) reaper: Arc<Reaper>,
    pub(super) run_as: Option<RunAs>,
    pub(super) dir: PathBuf,
}

impl Launcher {
    fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Copies a template; a `standby` follows whatever its settings name.
    pub(super) async fn copy(&self, template: &Path, name: &str, standby: bool) -> Result<()> {
        let copied = command(Path::new("cp"), None).arg("-a").arg(template).arg(self.data(name)).output().await?;
        if !copied.status.success() {
            bail!("copying the template failed: {}", String::from_utf8_lossy(&copied.stderr).trim());
        }
        if standby { self.make_standby(name) } else { Ok(()) }
    }

    fn make_standby(&self, name: &str) -> Result<()> {
        let signal = self.data(name).join("standby.signal");
        fs::write(&signal, "")?;
        own(&signal, self.run_as)
    }

    /// Makes the data of a server that has ended a standby of the server at `source`, whatever it wrote by itself.
    pub(super) async fn rewind(&self, name: &str, source: u16) -> Result<()> {
        let data = self.data(name);
        let rewound = command(&self.binaries.program("pg_rewind"), self.run_as)
            .args(["--no-sync", "--source-server"])
            .arg(format!("host=127.0.0.1 port={source} user=postgres dbname=postgres"))
            .arg("--target-pgdata")
            .arg(&data)
            .kill_on_drop(true)
            .output();
        let rewound = rewound.await.context("running pg_rewind")?;
        if !rewound.status.success() {
            tracing::debug!(node = name, why = %String::from_utf8_lossy(&rewound.stderr).trim(), "copied anew, not rewound");
            self.copy_anew(name, source).await?;
        }
        // The source's, perhaps.
        let _not_there = fs::remove_file(data.join("postgresql.auto.conf"));
        self.make_standby(name)
    }

    /// A fresh base backup.
    async fn copy_anew(&self, name: &str, source: u16) -> Result<()> {
        let data = self.data(name);
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        let copied = command(&self.binaries.program("pg_basebackup"), self.run_as)
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--host=127.0.0.1", "--username=postgres"])
            .arg(format!("--port={source}"))
            .arg("--pgdata")
            .arg(&data)
            .kill_on_drop(true)
            .output();
        let copied = copied.await.context("running pg_basebackup")?;
        if !copied.status.success() {
            bail!("pg_basebackup failed: {}", String::from_utf8_lossy(&copied.stderr).trim());
        }
        Ok(())
    }

    /// Starts a server on a free port, with more settings, and waits until it answers.
    pub(super) async fn start(&self, name: &str, settings: &str) -> Result<Node> {
        let log = self.dir.with_file_name(format!("postgres-{name}.log"));
        Node::start(&self.binaries, &self.reaper, self.run_as, name, &self.data(name), &log, settings).await
    }
}

/// A running server.
pub(super) struct Node {
    port: u16,
    child: Child,
    data: PathBuf,
    /// Settings of every server, and its port.
    common: String,
}

impl Node {
    /// Starts the server in `data` on a free port, with more settings, and waits until it answers.
    async fn start(
        binaries: &Binaries,
        reaper: &Reaper,
        run_as: Option<RunAs>,
        name: &str,
        data: &Path,
        log: &Path,
        settings: &str,
    ) -> Result<Self> {
        // Without it each server of 18 or newer starts three more processes.
        let io = if binaries.major() >= 18 { "io_method = sync\n" } else { "" };
        let mut tries = 0;
        loop {
            tries += 1;
            let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let common = format!("{SETTINGS}{io}port = {port}\n");
            fs::write(data.join("postgresql.conf"), format!("{common}{settings}"))?;
            let file = fs::File::options().create(true).append(true).open(log)?;
            let child = command(&binaries.program("postgres"), run_as)
                .arg("-D")
                .arg(data)
                .stdout(file.try_clone()?)
                .stderr(file)
                .process_group(0)
                // Not killed on drop: the reaper ends it in good order.
                .spawn()
                .with_context(|| format!("starting PostgreSQL {name}"))?;
            reaper.register(child.id().context("it has just been started")?)?;
            let mut node = Self { port, child, data: data.into(), common };
            let Err(error) = node.ready(data).await else { return Ok(node) };
            let text = fs::read_to_string(log).unwrap_or_default();
            if tries < PORT_TRIES_MAX && text.contains("Address already in use") {
                continue;
            }
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            bail!("PostgreSQL {name} did not start: {error:#}; the end of its log {}:\n{last}", log.display());
        }
    }

    /// Other settings, without a restart.
    pub(super) fn configure(&self, settings: &str) -> Result<()> {
        fs::write(self.data.join("postgresql.conf"), format!("{}{settings}", self.common))?;
        self.signal(rustix::process::Signal::HUP);
        Ok(())
    }

    /// Does the server's process run?
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it and everything that it started, at once, also when it hangs.
    pub(super) async fn kill(&mut self) {
        self.signal_all(rustix::process::Signal::KILL);
        let _ended = self.child.wait().await;
    }

    /// Stops all of its processes; the kernel goes on accepting connections for it.
    pub(super) fn hang(&self) {
        self.signal_all(rustix::process::Signal::STOP);
    }

    /// They go on.
    pub(super) fn unhang(&self) {
        self.signal_all(rustix::process::Signal::CONT);
    }

    fn signal_all(&self, signal: rustix::process::Signal) {
        if let Some(pid) = self.child.id() {
            reaper::kill(&reaper::with_descendants(&[pid].into()), signal);
        }
    }

    /// Waits until the server answers, and is the one in `data`: its port may have gone to another one.
    async fn ready(&mut self, data: &Path) -> Result<()> {
        let began = Instant::now();
        let own = data.to_str().context("the path is not text")?;
        loop {
            if let Ok(client) = self.connect("postgres").await {
                let asked = client.query_one("SELECT current_setting('data_directory') = $1::text", &[&own]).await;
                if asked.is_ok_and(|row| row.get(0)) {
                    return Ok(());
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if began.elapsed() > START_MAX {
                self.crash().await;
                bail!("it does not answer after {START_MAX:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Its own port, past all links.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// A session as superuser, past all faults.
    pub(super) async fn connect(&self, database: &str) -> Result<Client> {
        connect(&dsn(self.port, database)).await
    }

    /// Fast shutdown.
    pub(super) async fn stop(&mut self, reaper: &Reaper) -> Result<()> {
        let pid = self.child.id();
        self.signal(rustix::process::Signal::INT);
        let ended = tokio::time::timeout(START_MAX, self.child.wait()).await;
        ended.context("PostgreSQL does not stop")??;
        pid.map_or(Ok(()), |pid| reaper.forget(pid))
    }

    /// Immediate shutdown, as by a crash of its host.
    pub(super) async fn crash(&mut self) {
        self.signal(rustix::process::Signal::QUIT);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _already_gone = self.child.kill().await;
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _already_gone = rustix::process::kill_process(pid, signal);
        }
    }
}

/// How to reach the server on this port past all faults, as superuser.
pub(super) fn dsn(port: u16, database: &str) -> String {
    format!("host=127.0.0.1 port={port} user=postgres dbname={database} connect_timeout=2")
}

/// A session; the server may accept and then say nothing.
pub(super) async fn connect(dsn: &str) -> Result<Client> {
    let connecting = tokio::time::timeout(CONNECT_MAX, tokio_postgres::connect(dsn, NoTls));
    let (client, connection) = connecting.await.context("the server does not answer")??;
    tokio::spawn(connection);
    Ok(client)
}
