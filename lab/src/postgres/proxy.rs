//! In the place of RDS Proxy: a connection of an application outlives the move of the writer.
//!
//! Between two statements a client notices nothing: its next one waits until the new writer takes it. Before a planned
//! move the proxy lets statements end and holds new ones ([`Gate`]). A statement that is under way when the server is
//! lost gets an error, and the connection is kept. Each client has a server session
//! of its own (no multiplexing), passwords are not looked at, and prepared statements do not survive a move.

use anyhow::{Context as _, Result, bail, ensure};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Longest message that is carried.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest time that a statement waits for a writer (RDS Proxy's borrow timeout is 120 s by default).
const HOLD_MAX: Duration = Duration::from_secs(120);

/// Longest time for one attempt to open a session.
const OPEN_MAX: Duration = Duration::from_secs(1);

/// Pause between two attempts.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Longest time that is given to the statements under way when the writer is about to move.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Holds statements back, and knows how many are under way.
#[derive(Default)]
pub(super) struct Gate {
    held: watch::Sender<bool>,
    busy: AtomicUsize,
    left: Notify,
}

impl Gate {
    /// From now on no statement begins; returns when none is under way, or soon enough.
    pub(super) async fn hold(&self) {
        self.held.send_replace(true);
        let drained = async {
            loop {
                let left = self.left.notified();
                if self.busy.load(Ordering::SeqCst) == 0 {
                    return;
                }
                left.await;
            }
        };
        let _some_do_not_end = tokio::time::timeout(DRAIN_MAX, drained).await;
    }

    /// Statements begin again.
    pub(super) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until a statement may begin, and counts it.
    async fn enter(&self) {
        let mut held = self.held.subscribe();
        loop {
            // Counted before the look: whoever holds sees the one or the other.
            self.busy.fetch_add(1, Ordering::SeqCst);
            if !*held.borrow_and_update() {
                return;
            }
            self.leave();
            let _the_gate_lives = held.wait_for(|held| !held).await;
        }
    }

    fn leave(&self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
        self.left.notify_one();
    }
}

const SSL_REQUEST: u32 = 80_877_103;

/// Serves clients for ever; `writer` is the port of the server that they shall reach, and its changes.
pub(super) async fn serve(listener: TcpListener, writer: watch::Receiver<u16>, gate: Arc<Gate>) {
    // Aborted with this task.
    let mut clients = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (writer, gate) = (writer.clone(), Arc::clone(&gate));
                clients.spawn(async move {
                    if let Err(error) = Session::run(client, writer, gate).await {
                        tracing::debug!(error = format!("{error:#}"), "a client of the proxy ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the proxy does not accept");
                tokio::time::sleep(OPEN_AGAIN_AFTER).await;
            }
        }
        while clients.try_join_next().is_some() {}
    }
}

/// One message: its type and all of its bytes.
struct Message {
    kind: u8,
    bytes: Vec<u8>,
}

/// Reads whole messages, and never loses a half one when it is cancelled.
struct Messages {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Messages {
    async fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize + 1;
                if length > MESSAGE_BYTES_MAX {
                    return Err(io::Error::other("a message is too long"));
                }
                if self.buffer.len() >= length {
                    let rest = self.buffer.split_off(length);
                    let bytes = std::mem::replace(&mut self.buffer, rest);
                    return Ok(Message { kind: bytes[0], bytes });
                }
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A session on a server.
struct Server {
    messages: Messages,
    to: OwnedWriteHalf,
}

impl Server {
    /// Opens it with the client's own start-up message; with what the server said until it was ready.
    async fn open(port: u16, startup: &[u8]) -> Result<(Self, Vec<u8>)> {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        stream.set_nodelay(true)?;
        let (from, mut to) = stream.into_split();
        to.write_all(startup).await?;
        let mut messages = Messages { from, buffer: Vec::new() };
        let mut greeting = Vec::new();
        loop {
            let message = messages.next().await?;
            greeting.extend_from_slice(&message.bytes);
            match message.kind {
                b'Z' => return Ok((Self { messages, to }, greeting)),
                b'E' => bail!("the server refused: {}", String::from_utf8_lossy(&message.bytes[5..])),
                _ => {}
            }
        }
    }
}

struct Session {
    client: Messages,
    to_client: OwnedWriteHalf,
    startup: Vec<u8>,
    writer: watch::Receiver<u16>,
    gate: Arc<Gate>,
    /// A statement has begun and is counted at the gate.
    counted: bool,
    server: Option<Server>,
    /// Answers that the client waits for.
    under_way: u32,
    /// It has begun a transaction and not ended it.
    in_transaction: bool,
    /// What is sent is skipped until the end of the statement: it began on a server that is gone.
    skipping: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended();
    }
}

impl Session {
    async fn run(client: TcpStream, writer: watch::Receiver<u16>, gate: Arc<Gate>) -> Result<()> {
        client.set_nodelay(true)?;
        let (mut from, mut to_client) = client.into_split();
        let startup = startup(&mut from, &mut to_client).await?;
        let mut session = Self {
            client: Messages { from, buffer: Vec::new() },
            to_client,
            startup,
            writer,
            gate,
            counted: false,
            server: None,
            under_way: 0,
            in_transaction: false,
            skipping: false,
        };
        let greeting = session.open().await?;
        session.to_client.write_all(&greeting).await?;
        session.relay().await
    }

    /// Waits for a writer.
    async fn open(&mut self) -> Result<Vec<u8>> {
        let opening = async {
            loop {
                let port = *self.writer.borrow_and_update();
                let opened = tokio::time::timeout(OPEN_MAX, Server::open(port, &self.startup)).await;
                match opened {
                    Ok(Ok((server, greeting))) if is_writer(&greeting) => return (server, greeting),
                    _ => tokio::time::sleep(OPEN_AGAIN_AFTER).await,
                }
            }
        };
        let (server, greeting) = tokio::time::timeout(HOLD_MAX, opening).await.context("no writer for too long")?;
        self.server = Some(server);
        Ok(greeting)
    }

    async fn relay(&mut self) -> Result<()> {
        enum Event {
            Client(io::Result<Message>),
            Server(io::Result<Message>),
            Moved,
        }
        loop {
            let said = async {
                match &mut self.server {
                    Some(server) => server.messages.next().await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                message = self.client.next() => Event::Client(message),
                message = said => Event::Server(message),
                changed = self.writer.changed() => { changed?; Event::Moved }
            };
            match event {
                Event::Client(message) => self.forward(message?).await?,
                // An idle server says why it ends; nobody has asked.
                Event::Server(Ok(message)) if message.kind == b'E' && self.under_way == 0 => {}
                Event::Server(Ok(message)) => {
                    if message.kind == b'Z' {
                        self.under_way = self.under_way.saturating_sub(1);
                        self.in_transaction = message.bytes.get(5) != Some(&b'I');
                        if self.under_way == 0 && !self.in_transaction {
                            self.ended();
                        }
                    }
                    self.to_client.write_all(&message.bytes).await?;
                }
                Event::Server(Err(_)) | Event::Moved => self.lost().await?,
            }
        }
    }

    async fn forward(&mut self, message: Message) -> Result<()> {
        let ends = matches!(message.kind, b'Q' | b'S' | b'F');
        if self.skipping {
            self.skipping = !ends;
            return Ok(());
        }
        ensure!(message.kind != b'X', "the client says goodbye");
        if !self.counted {
            self.gate.enter().await;
            self.counted = true;
            if self.writer.has_changed()? {
                self.server = None;
            }
        }
        if self.server.is_none() {
            self.open().await?;
        }
        self.under_way += u32::from(ends);
        let server = self.server.as_mut().expect("it was opened");
        if server.to.write_all(&message.bytes).await.is_err() {
            if !ends {
                self.skipping = true;
                self.under_way += 1;
            }
            self.lost().await?;
        }
        Ok(())
    }

    /// The server is gone, or is not the writer any more.
    async fn lost(&mut self) -> Result<()> {
        self.server = None;
        if self.under_way > 0 || self.in_transaction {
            let mut said = error("57P01", "the writer has moved; the statement may or may not have been carried out");
            let answers = self.under_way.max(1);
            for _ in 0..answers {
                said.extend_from_slice(&[b'Z', 0, 0, 0, 5, b'I']);
            }
            (self.under_way, self.in_transaction) = (0, false);
            self.ended();
            self.to_client.write_all(&said).await?;
        }
        Ok(())
    }

    /// No statement is under way.
    fn ended(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.gate.leave();
        }
    }
}

/// The client's start-up message; encryption is not offered.
async fn startup(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> Result<Vec<u8>> {
    loop {
        let length = from.read_u32().await?;
        ensure!((8..=10_000).contains(&length), "this is no PostgreSQL client");
        let mut rest = vec![0; length as usize - 4];
        from.read_exact(&mut rest).await?;
        if rest[..4] == SSL_REQUEST.to_be_bytes() {
            to.write_all(b"N").await?;
            continue;
        }
        return Ok([&length.to_be_bytes()[..], &rest].concat());
    }
}

/// Does the server's greeting say that it takes writes?
fn is_writer(greeting: &[u8]) -> bool {
    let says = |text: &[u8]| greeting.windows(text.len()).any(|part| part == text);
    says(b"in_hot_standby\0off\0") && !says(b"default_transaction_read_only\0on\0")
}

/// An error as a server says it.
fn error(code: &str, message: &str) -> Vec<u8> {
    let fields = [('S', "ERROR"), ('V', "ERROR"), ('C', code), ('M', message)];
    let mut body: Vec<u8> = Vec::new();
    for (field, text) in fields {
        body.push(field as u8);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("a short text");
    [&[b'E'][..], &length.to_be_bytes(), &body].concat()
}
