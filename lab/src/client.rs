//! The application: resolves the public name as an application does, honours its TTL, writes, and keeps exact
//! account of what was acknowledged, by whom and when.
//!
//! One connection, one row per write, numbered. A write that is not acknowledged is given up and its number is not
//! used again: acknowledged rows can be compared with what the new writer has.

use crate::dns;
use anyhow::{Context as _, Result};
use hickory_resolver::TokioResolver;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
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
    /// Pause between two writes.
    pub pace: Duration,
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
    /// Writes and connection attempts that failed, with the time.
    pub failed: Vec<(SystemTime, String)>,
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
    /// Starts writing.
    ///
    /// # Errors
    /// When the resolver cannot be built.
    pub fn start(options: ClientOptions) -> Result<Self> {
        let resolver = dns::resolver(options.nameserver)?;
        let account = Arc::new(Mutex::new(Account::default()));
        let (sender, latest) = watch::channel(None);
        let writer = Writer { options, resolver, account: Arc::clone(&account), latest: sender };
        Ok(Self { account, latest, task: tokio::spawn(writer.run()) })
    }

    /// A copy of the account so far.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.lock().expect("no panic while it is held").clone()
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

struct Writer {
    options: ClientOptions,
    resolver: TokioResolver,
    account: Arc<Mutex<Account>>,
    latest: watch::Sender<Option<Acknowledged>>,
}

struct Open {
    session: Session,
    by: IpAddr,
    connection: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Writer {
    async fn run(self) {
        let mut open: Option<Open> = None;
        let mut number = self.options.first - 1;
        let mut ticks = tokio::time::interval(self.options.pace);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let connected = match open.take() {
                Some(connected) => Ok(connected),
                None => {
                    let connected = within(self.options.connect_timeout, self.connect()).await;
                    if connected.is_ok() {
                        self.account.lock().expect("no panic while it is held").connections += 1;
                    }
                    connected
                }
            };
            let connected = match connected {
                Ok(connected) => connected,
                Err(error) => {
                    self.failed(&error);
                    continue;
                }
            };
            number += 1;
            let began = Instant::now();
            match within(self.options.write_timeout, write(&connected, number)).await {
                Ok(()) => {
                    let (at, took) = (SystemTime::now(), began.elapsed());
                    let ack = Acknowledged { number, at, took, by: connected.by };
                    self.account.lock().expect("no panic while it is held").acknowledged.push(ack);
                    self.latest.send_replace(Some(ack));
                    open = Some(connected);
                }
                Err(error) => {
                    self.failed(&error);
                    // An application keeps a connection on which a statement was refused, but not one to a replica.
                    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
                    let refused = code.is_some_and(|code| *code != SqlState::READ_ONLY_SQL_TRANSACTION);
                    open = Some(connected).filter(|open| refused && !open.connection.is_finished());
                }
            }
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        let mut account = self.account.lock().expect("no panic while it is held");
        account.failed.push((SystemTime::now(), format!("{error:#}")));
    }

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
        Ok(Open { session, by, connection })
    }
}

async fn write(open: &Open, number: i64) -> Result<()> {
    let sql = format!("INSERT INTO {TABLE} (number) VALUES ($1)");
    open.session.execute(&sql, &[&number]).await?;
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| anyhow::anyhow!("no answer within {limit:?}"))?
}
