//! A directed network path that can be cut: packets vanish both ways at one instant, nothing is reset.
//!
//! A link is a TCP proxy. Cutting attaches a drop-all packet filter to its listener and to every socket of it, so
//! that the other ends see what a lost region looks like: no answer to a SYN, no acknowledgement on an open
//! connection; what was queued in the proxy is gone too. Where the kernel does not allow the filter, the link stops
//! reading and accepting instead ([`DropMethod::Stall`]), and says so: then connections hang without TCP noticing.

use anyhow::{Context as _, Result, bail};
use socket2::{SockFilter, SockRef};
use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 128;

/// Connections that fill the accept queue; after `listen(0)` it holds one.
const FILLERS_MAX: usize = 8;

/// Time in which a loopback connection is made, unless the queue is full.
const FILLER_WITHIN: Duration = Duration::from_millis(20);

/// Pause after a failed accept: out of file descriptors, it would fail again at once.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Tries to find one port that is free on several addresses.
const PORT_TRIES_MAX: u32 = 100;

/// How packets are made to vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropMethod {
    /// A packet filter on each socket.
    PacketFilter,
    /// No reading and no accepting.
    Stall,
}

impl fmt::Display for DropMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PacketFilter => "a packet filter on each socket (SYN and data are dropped, nothing is acknowledged)",
            Self::Stall => {
                "stalling (no reading, no accepting; the kernel still acknowledges: packet filters need root here)"
            }
        })
    }
}

/// What this machine allows; tried once on a socket of our own.
#[must_use]
pub fn drop_method() -> DropMethod {
    static METHOD: OnceLock<DropMethod> = OnceLock::new();
    *METHOD.get_or_init(|| match StdListener::bind("127.0.0.1:0") {
        Ok(scratch) if drop_packets(&SockRef::from(&scratch)).is_ok() => DropMethod::PacketFilter,
        Ok(_) | Err(_) => DropMethod::Stall,
    })
}

/// Classic BPF: `ret 0`, accept zero bytes of every packet.
fn drop_packets(socket: &SockRef<'_>) -> io::Result<()> {
    const BPF_RET: u16 = 0x06;
    socket.attach_filter(&[SockFilter::new(BPF_RET, 0, 0, 0)])
}

/// Listeners on one port that is free on all of the addresses.
///
/// # Errors
/// When no such port was found, or an address is not of this machine.
pub fn bind_same_port(ips: &[IpAddr]) -> Result<Vec<StdListener>> {
    let first = ips.first().context("no address given")?;
    'ports: for _ in 0..PORT_TRIES_MAX {
        let mut listeners = vec![StdListener::bind((*first, 0)).with_context(|| format!("binding {first}"))?];
        let port = listeners[0].local_addr()?.port();
        for ip in &ips[1..] {
            match StdListener::bind((*ip, port)) {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue 'ports,
                Err(error) => return Err(error).with_context(|| format!("binding {ip}")),
            }
        }
        return Ok(listeners);
    }
    bail!("no port is free on all of {ips:?} after {PORT_TRIES_MAX} tries")
}

/// A running link; dropping it resets its connections.
pub struct Link {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    name: String,
    addr: SocketAddr,
    target: Mutex<SocketAddr>,
    listener: TcpListener,
    /// Also the lock under which every byte passes: once `cut` returns, none does.
    state: watch::Sender<State>,
    fillers: Mutex<Vec<socket2::Socket>>,
}

struct State {
    open: bool,
    /// A connection of an earlier cut is dead, however briefly the link was cut.
    cuts: u64,
    sockets: Vec<Weak<TcpStream>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Accepts on `listener` and connects each connection to `target`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn open(name: &str, listener: StdListener, target: SocketAddr) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name: name.into(),
            addr,
            target: Mutex::new(target),
            listener: TcpListener::from_std(listener)?,
            state: watch::Sender::new(State { open: true, cuts: 0, sockets: Vec::new() }),
            fillers: Mutex::default(),
        });
        let task = tokio::spawn(accept(Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Where it accepts.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// New connections go there from now on; those that are open stay.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("no panic while it is held") = target;
    }

    /// From now on packets vanish, and so does what is on its way.
    pub fn cut(&self) {
        Self::cut_all([self]);
    }

    /// Cuts several links at once, so that none outlives another for longer than a few microseconds.
    pub fn cut_all<'a>(links: impl IntoIterator<Item = &'a Self>) {
        let cut_now: Vec<_> = links.into_iter().filter(|link| link.shared.close()).collect();
        if drop_method() == DropMethod::Stall {
            // Slow, as it waits for a connection to fail.
            cut_now.iter().for_each(|link| link.shared.fill_accept_queue());
        }
    }

    /// New connections work again; those that were cut are reset.
    pub fn heal(&self) {
        self.shared.reopen();
    }
}

impl Shared {
    /// False when it was closed before.
    fn close(&self) -> bool {
        self.state.send_if_modified(|state| {
            if !state.open {
                return false;
            }
            state.open = false;
            state.cuts += 1;
            if drop_method() == DropMethod::PacketFilter {
                let sockets = state.sockets.iter().filter_map(Weak::upgrade);
                let refused = sockets.filter(|socket| drop_packets(&SockRef::from(&**socket)).is_err()).count();
                if refused > 0 || drop_packets(&SockRef::from(&self.listener)).is_err() {
                    tracing::warn!(link = self.name, "a packet filter was refused; that socket only stalls");
                }
            }
            true
        })
    }

    fn reopen(&self) {
        self.state.send_if_modified(|state| {
            if state.open {
                return false;
            }
            self.fillers.lock().expect("no panic while it is held").clear();
            let listener = SockRef::from(&self.listener);
            // What had been queued when the link was cut is dead too.
            while let Ok((queued, _)) = listener.accept() {
                reset(&SockRef::from(&queued));
            }
            let restored = match drop_method() {
                DropMethod::PacketFilter => listener.detach_filter(),
                DropMethod::Stall => listener.listen(BACKLOG),
            };
            if let Err(error) = restored {
                tracing::warn!(link = self.name, %error, "the link may not take connections again");
            }
            state.sockets.clear();
            state.open = true;
            true
        });
    }

    /// Without a filter the kernel would go on accepting into the backlog.
    fn fill_accept_queue(&self) {
        if SockRef::from(&self.listener).listen(0).is_err() {
            return;
        }
        let mut fillers = self.fillers.lock().expect("no panic while it is held");
        for _ in 0..FILLERS_MAX {
            let domain = socket2::Domain::for_address(self.addr);
            let Ok(socket) = socket2::Socket::new(domain, socket2::Type::STREAM, None) else { return };
            let connected = socket.connect_timeout(&self.addr.into(), FILLER_WITHIN);
            fillers.push(socket);
            if connected.is_err() {
                return;
            }
        }
    }

    /// From now on `cut` reaches this socket.
    fn register(&self, socket: TcpStream, born: u64) -> Arc<TcpStream> {
        let _best_effort = socket.set_nodelay(true);
        let socket = Arc::new(socket);
        self.state.send_if_modified(|state| {
            if state.cuts == born {
                state.sockets.retain(|known| known.strong_count() > 0);
                state.sockets.push(Arc::downgrade(&socket));
            } else if drop_method() == DropMethod::PacketFilter {
                let _best_effort = drop_packets(&SockRef::from(&*socket));
            }
            false
        });
        socket
    }
}

/// Closing it sends a reset, and drops what was not sent.
fn reset(socket: &SockRef<'_>) {
    let _best_effort = socket.set_linger(Some(Duration::ZERO));
}

async fn accept(shared: Arc<Shared>) {
    let mut changes = shared.state.subscribe();
    let state = shared.state.subscribe();
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        if changes.wait_for(|state| state.open).await.is_err() {
            return;
        }
        let accepted = poll_fn(|context| {
            let state = state.borrow();
            if !state.open {
                return Poll::Ready(None);
            }
            shared.listener.poll_accept(context).map(|accepted| Some(accepted.map(|(client, _)| (client, state.cuts))))
        });
        let accepted = tokio::select! {
            biased;
            _ = changes.wait_for(|state| !state.open) => continue,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Some(Ok((client, born))) => {
                connections.spawn(connection(Arc::clone(&shared), client, born));
            }
            Some(Err(error)) => {
                tracing::warn!(link = shared.name, %error, "accepting failed");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
            None => {}
        }
    }
}

/// Carries until both ends have closed, an end fails, or the link is cut; then keeps silent until it heals.
async fn connection(shared: Arc<Shared>, client: TcpStream, born: u64) {
    let mut changes = shared.state.subscribe();
    let client = shared.register(client, born);
    let mut sockets = vec![Arc::clone(&client)];
    let carried = async {
        let target = *shared.target.lock().expect("no panic while it is held");
        let server = shared.register(TcpStream::connect(target).await?, born);
        sockets.push(Arc::clone(&server));
        let state = shared.state.subscribe();
        tokio::try_join!(copy(&client, &server, &state, born), copy(&server, &client, &state, born))
    };
    let failed = tokio::select! {
        biased;
        _ = changes.wait_for(|state| state.cuts != born) => true,
        carried = carried => carried.is_err(),
    };
    if failed {
        let _healed = changes.wait_for(|state| state.open).await;
        sockets.iter().for_each(|socket| reset(&SockRef::from(&**socket)));
    }
}

/// Copies one way until the end of `from`; never ends once the link was cut.
async fn copy(from: &TcpStream, to: &TcpStream, state: &watch::Receiver<State>, born: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        from.readable().await?;
        let Some(read) = unless_cut(state, born, || from.try_read(&mut chunk)) else { return pending().await };
        let Some(length) = unless_not_ready(read)? else { continue };
        if length == 0 {
            let shut = unless_cut(state, born, || SockRef::from(to).shutdown(Shutdown::Write));
            return if shut.is_some() { Ok(()) } else { pending().await };
        }
        let mut written = 0;
        while written < length {
            to.writable().await?;
            let now = unless_cut(state, born, || to.try_write(&chunk[written..length]));
            let Some(now) = now else { return pending().await };
            written += unless_not_ready(now)?.unwrap_or(0);
        }
    }
}

/// Nothing can be cut while this runs.
fn unless_cut<T>(state: &watch::Receiver<State>, born: u64, act: impl FnOnce() -> T) -> Option<T> {
    let state = state.borrow();
    (state.cuts == born).then(act)
}

fn unless_not_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);
    const HANGS: Duration = Duration::from_millis(300);

    async fn echo() -> (Link, Arc<AtomicU64>) {
        server(true).await
    }

    /// A link to a server that counts the bytes that it gets, and may send them back.
    async fn server(echo: bool) -> (Link, Arc<AtomicU64>) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = server.accept().await.unwrap();
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut chunk = vec![0; CHUNK];
                    while let Ok(length @ 1..) = socket.read(&mut chunk).await {
                        counter.fetch_add(length as u64, Ordering::SeqCst);
                        if echo && socket.write_all(&chunk[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let listener = bind_same_port(&["127.0.0.1".parse().unwrap()]).unwrap().remove(0);
        (Link::open("echo", listener, target).unwrap(), received)
    }

    async fn ask(client: &mut TcpStream) -> io::Result<()> {
        client.write_all(b"hello").await?;
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.map(|_| ())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cut_link_is_silent_and_a_healed_one_takes_new_connections_only() {
        let (link, _) = echo().await;
        let mut old = TcpStream::connect(link.addr()).await.unwrap();
        timeout(SOON, ask(&mut old)).await.unwrap().unwrap();

        link.cut();
        link.cut();
        assert!(timeout(HANGS, ask(&mut old)).await.is_err(), "an old connection hangs");
        assert!(timeout(HANGS, TcpStream::connect(link.addr())).await.is_err(), "a new one is not answered");

        link.heal();
        let mut new = timeout(SOON, TcpStream::connect(link.addr())).await.unwrap().unwrap();
        timeout(SOON, ask(&mut new)).await.unwrap().unwrap();
        let ended = timeout(SOON, old.read(&mut [0; 5])).await.expect("the old one is closed");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_cut_not_a_byte_arrives_and_none_later() {
        // Not an echo: a server that is stuck in sending reads what had arrived only after the reset.
        let (link, received) = server(false).await;
        let mut client = TcpStream::connect(link.addr()).await.unwrap();
        tokio::spawn(async move { while client.write_all(&[0; 4096]).await.is_ok() {} });
        let flowing = async {
            while received.load(Ordering::SeqCst) < 1_000_000 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, flowing).await.expect("it flows");

        link.cut();
        // What is in the server's own kernel has arrived; let it be read.
        let mut settled = received.load(Ordering::SeqCst);
        loop {
            tokio::time::sleep(HANGS).await;
            let now = received.load(Ordering::SeqCst);
            if now == settled {
                break;
            }
            settled = now;
        }
        link.heal();
        tokio::time::sleep(HANGS).await;
        assert_eq!(received.load(Ordering::SeqCst), settled);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_shortest_cut_kills_connections_too() {
        let (link, _) = echo().await;
        for _ in 0..20 {
            let mut client = TcpStream::connect(link.addr()).await.unwrap();
            timeout(SOON, ask(&mut client)).await.unwrap().unwrap();
            link.cut();
            link.heal();
            assert!(timeout(SOON, ask(&mut client)).await.expect("it does not hang").is_err());
        }
    }

    #[tokio::test]
    async fn the_end_of_one_way_leaves_the_other_open() {
        let (link, _) = echo().await;
        let mut client = TcpStream::connect(link.addr()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, client.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"hello");
    }

    #[test]
    fn one_port_is_held_on_all_addresses() {
        let ips: Vec<IpAddr> = ["127.10.0.1", "127.20.0.1"].iter().map(|ip| ip.parse().unwrap()).collect();
        let listeners = bind_same_port(&ips).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert_eq!(ports[0], ports[1]);
        assert!(StdListener::bind((ips[1], ports[1])).is_err(), "nobody else can take it");
    }
}
