//! A directed network path that can be cut: packets vanish both ways at one instant, nothing is reset.
//!
//! A link is a TCP proxy. Cutting attaches a drop-all packet filter to its listener and to every socket of it, so
//! that the other ends see what a lost region looks like: no answer to a SYN, no acknowledgement on an open
//! connection; what was queued in the proxy is gone too. Where the kernel does not allow the filter, the link stops
//! reading and accepting instead ([`DropMethod::Stall`]), and says so: then connections hang without TCP noticing.

use anyhow::{Context as _, Result, bail};
use socket2::{SockFilter, SockRef};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

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

/// A running link.
pub struct Link {
    name: String,
    addr: SocketAddr,
    listener: Arc<TcpListener>,
    sockets: Arc<Mutex<Vec<std::sync::Weak<Pair>>>>,
    open: watch::Sender<bool>,
    fillers: Mutex<Vec<socket2::Socket>>,
    task: JoinHandle<()>,
}

/// The two sockets of one proxied connection, kept open while the link is cut.
struct Pair {
    client: socket2::Socket,
    server: socket2::Socket,
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
        let listener = Arc::new(TcpListener::from_std(listener)?);
        let sockets = Arc::default();
        let (open, is_open) = watch::channel(true);
        let task = tokio::spawn(accept(Arc::clone(&listener), target, Arc::clone(&sockets), is_open));
        Ok(Self { name: name.into(), addr, listener, sockets, open, fillers: Mutex::default(), task })
    }

    /// Where it accepts.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on packets vanish, and so does what is on its way.
    pub fn cut(&self) {
        // First the filters, so that nothing is acknowledged any more; then the tasks stop copying.
        if drop_method() == DropMethod::PacketFilter {
            let mut failed = drop_packets(&SockRef::from(&*self.listener)).is_err();
            for pair in
                self.sockets.lock().expect("no panic while it is held").iter().filter_map(std::sync::Weak::upgrade)
            {
                failed |= drop_packets(&SockRef::from(&pair.client)).is_err();
                failed |= drop_packets(&SockRef::from(&pair.server)).is_err();
            }
            if failed {
                tracing::warn!(link = self.name, "a packet filter was refused; that socket only stalls");
            }
        }
        self.open.send_replace(false);
        if drop_method() == DropMethod::Stall {
            self.fill_accept_queue();
        }
    }

    /// New connections work again; those that were cut are closed.
    pub fn heal(&self) {
        let _best_effort = SockRef::from(&*self.listener).detach_filter();
        self.fillers.lock().expect("no panic while it is held").clear();
        self.open.send_replace(true);
    }

    /// Without a filter the kernel would go on accepting into the backlog.
    fn fill_accept_queue(&self) {
        if SockRef::from(&*self.listener).listen(0).is_err() {
            return;
        }
        let mut fillers = self.fillers.lock().expect("no panic while it is held");
        for _ in 0..8 {
            let Ok(socket) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None) else { return };
            let connected = socket.connect_timeout(&self.addr.into(), Duration::from_millis(20));
            fillers.push(socket);
            if connected.is_err() {
                return;
            }
        }
    }
}

async fn accept(
    listener: Arc<TcpListener>,
    target: SocketAddr,
    sockets: Arc<Mutex<Vec<std::sync::Weak<Pair>>>>,
    mut open: watch::Receiver<bool>,
) {
    loop {
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = open.wait_for(|open| !*open) => continue,
        };
        let Ok((client, _)) = accepted else { continue };
        let (sockets, open) = (Arc::clone(&sockets), open.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ended = carry(client, server, &sockets, open).await;
        });
    }
}

/// Copies both ways until an end closes, or the link is cut; then keeps both sockets silent until it heals.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    sockets: &Mutex<Vec<std::sync::Weak<Pair>>>,
    mut open: watch::Receiver<bool>,
) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let pair =
        Arc::new(Pair { client: SockRef::from(&client).try_clone()?, server: SockRef::from(&server).try_clone()? });
    {
        let mut sockets = sockets.lock().expect("no panic while it is held");
        sockets.retain(|known| known.strong_count() > 0);
        sockets.push(Arc::downgrade(&pair));
    }
    // Borrowed halves: giving the copying up must not close anything, as dropping owned halves would.
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let copying = async {
        tokio::join!(copy(from_client, to_server), copy(from_server, to_client));
    };
    tokio::select! {
        biased;
        _ = open.wait_for(|open| !*open) => {}
        () = copying => return Ok(()),
    }
    if drop_method() == DropMethod::PacketFilter {
        // A connection that was made in the instant of the cut.
        let _best_effort = drop_packets(&SockRef::from(&pair.client));
        let _best_effort = drop_packets(&SockRef::from(&pair.server));
    }
    let _dropped = open.wait_for(|open| *open).await;
    Ok(())
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if to.write_all(&chunk[..n]).await.is_err() {
                    break;
                }
            }
        }
    }
    let _already_closed = to.shutdown().await;
}
