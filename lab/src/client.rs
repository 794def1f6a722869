//! The application: resolves the public name as an application does, honours its TTL, reads and writes through a pool of
//! connections, and keeps exact account of what was acknowledged, by whom and when.
//!
//! One row per write, numbered. A write that is not acknowledged is given up and its number is not used again:
//! acknowledged rows can be compared with what the new writer has. Each client waits for one statement before it makes
//! the next; a fleet is several clients on one pool.

use crate::dns;
use anyhow::{Context as _, Result};
use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleError, RecycleResult};
use hickory_resolver::TokioResolver;
use rand::RngExt as _;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client as Session, NoTls};

/// Table of the application's rows.
pub const TABLE: &str = "application_writes";

/// How the application behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The public name.
    pub name: String,
    /// Port behind it.
    pub port: u16,
    /// Name server.
    pub nameserver: SocketAddr,
    /// Database.
    pub database: String,
    /// Number of the first write.
    pub first: i64,
    /// Pause between two statements.
    pub pace: Duration,
    /// Of a hundred statements so many only read.
    pub reads_percent: u8,
    /// The application gives a connection attempt up after this.
    pub connect_timeout: Duration,
    /// The application gives a write up after this.
    pub write_timeout: Duration,
}

/// One acknowledged write.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// Its number.
    pub number: i64,
    /// When the acknowledgement arrived.
    pub at: SystemTime,
    /// How long the write took.
    pub took: Duration,
    /// The server that acknowledged.
    pub by: IpAddr,
}

/// What the client saw.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Every acknowledged write, in order.
    pub acknowledged: Vec<Acknowledged>,
    /// Writes and connection attempts for them that failed, with the time.
    pub failed: Vec<(SystemTime, String)>,
    /// Reads that were answered, in order: when, and how long they took.
    pub read: Vec<(SystemTime, Duration)>,
    /// Reads that failed, with the time.
    pub failed_reads: Vec<(SystemTime, String)>,
    /// Connections that were opened.
    pub connections: usize,
}

impl Account {
    /// Last write acknowledged by `old`, and first one by another server after it.
    #[must_use]
    pub fn hand_over(&self, old: IpAddr) -> Option<(Acknowledged, Acknowledged)> {
        let last = self.acknowledged.iter().rev().find(|ack| ack.by == old)?;
        let first = self.acknowledged.iter().find(|ack| ack.by != old && ack.at > last.at)?;
        Some((*last, *first))
    }

    /// Longest time between two acknowledged writes, the second one after `since`.
    #[must_use]
    pub fn longest_gap_ms(&self, since: SystemTime) -> u64 {
        let pairs = self.acknowledged.windows(2).filter(|pair| pair[1].at > since);
        let gaps = pairs.filter_map(|pair| pair[1].at.duration_since(pair[0].at).ok());
        gaps.max().map_or(0, |gap| gap.as_millis() as u64)
    }

    /// What several clients saw, as one account.
    #[must_use]
    pub fn merged(accounts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for account in accounts {
            all.acknowledged.extend(account.acknowledged);
            all.failed.extend(account.failed);
            all.read.extend(account.read);
            all.failed_reads.extend(account.failed_reads);
            all.connections += account.connections;
        }
        all.acknowledged.sort_by_key(|ack| ack.at);
        all.failed.sort_by_key(|(at, _)| *at);
        all.read.sort_by_key(|(at, _)| *at);
        all.failed_reads.sort_by_key(|(at, _)| *at);
        all
    }

    /// Numbers of all acknowledged writes.
    #[must_use]
    pub fn numbers(&self) -> BTreeSet<i64> {
        self.acknowledged.iter().map(|ack| ack.number).collect()
    }
}

/// A running client.
pub struct Client {
    account: Arc<Mutex<Account>>,
    latest: watch::Receiver<Option<Acknowledged>>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Starts one client with a connection of its own.
    ///
    /// # Errors
    /// When the resolver cannot be built.
    pub fn start(options: ClientOptions) -> Result<Self> {
        let pool = pool(&options, 1)?;
        Ok(Self::start_on(options, pool))
    }

    /// Starts `count` clients on one pool of at most `connections`; client n numbers its writes from `first` of
    /// `options` plus n times `apart`.
    ///
    /// # Errors
    /// When the resolver cannot be built.
    pub fn start_fleet(options: &ClientOptions, count: usize, connections: usize, apart: i64) -> Result<Vec<Self>> {
        let pool = pool(options, connections)?;
        let first = |number: usize| options.first + apart * i64::try_from(number).expect("a few clients");
        let client = |number| Self::start_on(ClientOptions { first: first(number), ..options.clone() }, pool.clone());
        Ok((0..count).map(client).collect())
    }

    fn start_on(options: ClientOptions, pool: Pool<Opener>) -> Self {
        let account = Arc::new(Mutex::new(Account::default()));
        let (sender, latest) = watch::channel(None);
        let worker = Worker { options, pool, account: Arc::clone(&account), latest: sender };
        Self { account, latest, task: tokio::spawn(worker.run()) }
    }

    /// A copy of the account so far.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.lock().expect("no panic while it is held").clone()
    }

    /// What it saw since a time.
    #[must_use]
    pub fn account_since(&self, since: SystemTime) -> Account {
        let account = self.account.lock().expect("no panic while it is held");
        let acknowledged = account.acknowledged.iter().rev().take_while(|ack| ack.at >= since).copied();
        let failed = account.failed.iter().rev().take_while(|(at, _)| *at >= since).cloned();
        let mut recent =
            Account { acknowledged: acknowledged.collect(), failed: failed.collect(), ..Account::default() };
        recent.acknowledged.reverse();
        recent.failed.reverse();
        recent
    }

    /// Acknowledged writes, and failed attempts.
    #[must_use]
    pub fn counted(&self) -> (usize, usize) {
        let account = self.account.lock().expect("no panic while it is held");
        (account.acknowledged.len(), account.failed.len())
    }

    /// The newest acknowledgement, and its changes.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Option<Acknowledged>> {
        self.latest.clone()
    }

    /// Stops and gives the account.
    #[must_use]
    pub fn stop(self) -> Account {
        self.task.abort();
        self.account()
    }
}

fn pool(options: &ClientOptions, connections: usize) -> Result<Pool<Opener>> {
    let resolver = dns::resolver(options.nameserver)?;
    let opener = Opener { options: options.clone(), resolver };
    Pool::builder(opener).max_size(connections).build().context("building a pool of connections")
}

/// Opens the pool's connections.
struct Opener {
    options: ClientOptions,
    resolver: TokioResolver,
}

struct Open {
    session: Session,
    by: IpAddr,
    connection: JoinHandle<()>,
    usable: bool,
    /// Nobody has used it yet.
    new: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Manager for Opener {
    type Type = Open;
    type Error = anyhow::Error;

    async fn create(&self) -> Result<Open> {
        within(self.options.connect_timeout, self.connect()).await
    }

    async fn recycle(&self, open: &mut Open, _: &Metrics) -> RecycleResult<anyhow::Error> {
        if open.usable && !open.connection.is_finished() {
            return Ok(());
        }
        Err(RecycleError::message("it is of no use any more"))
    }
}

impl Opener {
    async fn connect(&self) -> Result<Open> {
        let addresses = self.resolver.lookup_ip(self.options.name.as_str()).await.context("DNS")?;
        let by = addresses.iter().next().context("the public name has no address")?;
        let stream = TcpStream::connect((by, self.options.port)).await.with_context(|| format!("connect to {by}"))?;
        stream.set_nodelay(true)?;
        let mut config = tokio_postgres::Config::new();
        config.user("app").dbname(&self.options.database).application_name("client");
        let (session, connection) = config.connect_raw(stream, NoTls).await?;
        let connection = tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Open { session, by, connection, usable: true, new: true })
    }
}

struct Worker {
    options: ClientOptions,
    pool: Pool<Opener>,
    account: Arc<Mutex<Account>>,
    latest: watch::Sender<Option<Acknowledged>>,
}

impl Worker {
    async fn run(self) {
        let mut number = self.options.first - 1;
        let mut ticks = tokio::time::interval(self.options.pace);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let reads = rand::rng().random_range(0..100) < self.options.reads_percent;
            let mut open = match self.pool.get().await {
                Ok(open) => open,
                Err(error) => {
                    self.failed(reads, &anyhow::anyhow!("{error}"));
                    continue;
                }
            };
            if std::mem::take(&mut open.new) {
                self.account().connections += 1;
            }
            let began = Instant::now();
            let statement = async {
                if reads {
                    return read(&open).await;
                }
                number += 1;
                write(&open, number).await
            };
            let done = within(self.options.write_timeout, statement).await;
            let (at, took, by) = (SystemTime::now(), began.elapsed(), open.by);
            match done {
                Ok(()) if reads => self.account().read.push((at, took)),
                Ok(()) => {
                    let ack = Acknowledged { number, at, took, by };
                    self.account().acknowledged.push(ack);
                    self.latest.send_replace(Some(ack));
                }
                Err(error) => {
                    self.failed(reads, &error);
                    open.usable = is_kept(&error);
                }
            }
        }
    }

    fn failed(&self, reads: bool, error: &anyhow::Error) {
        let failure = (SystemTime::now(), format!("{error:#}"));
        let mut account = self.account();
        if reads { account.failed_reads.push(failure) } else { account.failed.push(failure) }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().expect("no panic while it is held")
    }
}

/// An application keeps a connection on which a statement was refused, but not one to a replica.
fn is_kept(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| *code != SqlState::READ_ONLY_SQL_TRANSACTION)
}

async fn write(open: &Object<Opener>, number: i64) -> Result<()> {
    let sql = format!("INSERT INTO {TABLE} (number) VALUES ($1)");
    // One round trip, without a name: a prepared statement would not survive a proxy's change of servers.
    open.session.execute_typed(&sql, &[(&number, Type::INT8)]).await?;
    Ok(())
}

async fn read(open: &Object<Opener>) -> Result<()> {
    let sql = format!("SELECT max(number) FROM {TABLE}");
    open.session.query_typed(&sql, &[]).await?;
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| anyhow::anyhow!("no answer within {limit:?}"))?
}
