//! A byte-level proxy that can break what lies between two programs, and counts what it broke.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BACKLOG: i32 = 256;
const CHUNK: usize = 16 * 1024;

/// What a proxy does to the connections through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Closes every connection and refuses new ones, as when the program behind it has ended.
    Cut,
    /// Resets every connection (TCP RST), and new ones as soon as they are made.
    Reset,
    /// Swallows everything, the end of a connection too; new connections are accepted. A connection that lost bytes never works again,
    /// and stays open until the client gives up.
    BlackHole,
    /// Swallows answers while requests go through, otherwise like `BlackHole`.
    AnswersLost,
    /// Holds everything back and delivers it when the fault ends.
    Stall,
    /// Delivers each piece so much later.
    Delay(Duration),
    /// Delivers so many bytes a second in each direction.
    Trickle(u32),
}

impl Fault {
    /// Its name in the counts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::BlackHole => "black hole",
            Self::AnswersLost => "answers lost",
            Self::Stall => "stall",
            Self::Delay(_) => "delay",
            Self::Trickle(_) => "trickle",
        }
    }
}

/// A proxy on a port of its own until this value goes; every connection through it ends then.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    fault: watch::Sender<Option<Fault>>,
    counts: Counts,
    end: CancellationToken,
    /// Bound and never listening: the port stays ours while nobody listens, and connections to it are refused.
    _reservation: Socket,
}

impl Proxy {
    /// A proxy in front of the server at `target`, without a fault.
    pub(crate) fn start(target: SocketAddr) -> Self {
        let reservation = bind(0);
        let address = reservation.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound");
        let (fault, watched) = watch::channel(None);
        let (counts, end) = (Counts::default(), CancellationToken::new());
        let listener = listen(address.port());
        let target = Arc::new(Mutex::new(target));
        let way = Way { target: Arc::clone(&target), fault: watched, counts: counts.clone() };
        tokio::spawn({
            let end = end.clone();
            async move { end.run_until_cancelled(accept(way, address.port(), listener, end.clone())).await }
        });
        Self { address, target, fault, counts, end, _reservation: reservation }
    }

    /// A proxy in front of the server that `url` names, and the URL that leads through it.
    pub(crate) fn in_front_of(url: &str) -> (Self, String) {
        let mut url = Url::parse(url).expect("a URL with host and port");
        let target = url.socket_addrs(|| None).expect("a host that resolves").remove(0);
        let proxy = Self::start(target);
        url.set_ip_host(proxy.address.ip()).expect("the URL has a host");
        url.set_port(Some(proxy.address.port())).expect("the URL has a port");
        (proxy, url.to_string())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another program from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Breaks it in this way, and in no other any more.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(Some(fault));
    }

    /// Ends the fault. Connections that lost bytes stay useless; the others go on.
    pub(crate) fn heal(&self) {
        self.fault.send_replace(None);
    }

    /// How often each fault really struck, by its name: connections that were closed, pieces that were swallowed, held or slowed.
    pub(crate) fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often this fault really struck.
    pub(crate) fn struck_by(&self, fault: Fault) -> u64 {
        self.struck().get(fault.name()).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counts {
    fn add(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(fault.name()).or_default() += 1;
    }
}

/// Several sockets of ours may be bound to one port; only one of them ever listens.
fn bind(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    socket.set_reuse_address(true).expect("it is not bound yet");
    socket.set_reuse_port(true).expect("it is not bound yet");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("the port is free or ours");
    socket
}

fn listen(port: u16) -> TcpListener {
    let socket = bind(port);
    socket.listen(BACKLOG).expect("nobody else listens there");
    socket.set_nonblocking(true).expect("a socket can be set so");
    TcpListener::from_std(socket.into()).expect("the runtime takes it")
}

/// The way that connections take.
#[derive(Clone)]
struct Way {
    target: Arc<Mutex<SocketAddr>>,
    fault: watch::Receiver<Option<Fault>>,
    counts: Counts,
}

async fn accept(way: Way, port: u16, listener: TcpListener, end: CancellationToken) {
    let mut fault = way.fault.clone();
    let mut listener = Some(listener);
    loop {
        if *fault.borrow_and_update() == Some(Fault::Cut) {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(port));
        }
        tokio::select! {
            changed = fault.changed() => if changed.is_err() { return },
            client = next_client(listener.as_ref()) => {
                let (way, end) = (way.clone(), end.clone());
                tokio::spawn(async move { end.run_until_cancelled(carry(way, client)).await });
            }
        }
    }
}

async fn next_client(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if let Ok((client, _)) = listener.accept().await {
            return client;
        }
    }
}

/// One connection, from its start to its end.
async fn carry(way: Way, mut client: TcpStream) {
    let mut fault = way.fault.clone();
    let now = *fault.borrow_and_update();
    let lost = AtomicBool::new(now == Some(Fault::BlackHole));
    let target = *way.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        // A connection that ended already shows that at its first read.
        stream.set_nodelay(true).ok();
    }
    let both = async {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let requests = Pump { fault: way.fault.clone(), counts: &way.counts, lost: &lost, answers: false };
        let answers = Pump { fault: way.fault.clone(), counts: &way.counts, lost: &lost, answers: true };
        tokio::join!(requests.run(from_client, to_server), answers.run(from_server, to_client));
    };
    let ended = async {
        let ends = |fault: &Option<Fault>| matches!(fault, Some(Fault::Cut | Fault::Reset));
        fault.wait_for(ends).await.ok().and_then(|fault| *fault)
    };
    let ended = tokio::select! {
        () = both => None,
        fault = ended => fault,
    };
    if let Some(fault) = ended {
        way.counts.add(fault);
        if fault == Fault::Reset {
            for stream in [&client, &server] {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
            }
        }
    }
}

/// One direction of a connection.
struct Pump<'a> {
    fault: watch::Receiver<Option<Fault>>,
    counts: &'a Counts,
    /// Whether the connection has lost bytes.
    lost: &'a AtomicBool,
    answers: bool,
}

impl Pump<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let mut rest = &chunk[..length];
            while !rest.is_empty() {
                let Some(done) = self.pass(rest, &mut to).await else { return };
                rest = &rest[done..];
            }
        }
        // The end goes where the bytes went: not through a black hole, and not before bytes that are held.
        let holds = |fault: &Option<Fault>| matches!(fault, Some(Fault::BlackHole | Fault::Stall));
        if self.fault.wait_for(|fault| !holds(fault)).await.is_err() || (self.answers && self.is_lost()) {
            return;
        }
        to.shutdown().await.ok();
    }

    /// Does with `bytes` what the fault of the moment says; how many of them are done with, or `None` at the connection's end.
    async fn pass(&mut self, bytes: &[u8], to: &mut WriteHalf<'_>) -> Option<usize> {
        let fault = *self.fault.borrow_and_update();
        match fault {
            Some(fault @ (Fault::Cut | Fault::Reset | Fault::Stall)) => {
                if fault == Fault::Stall {
                    self.counts.add(fault);
                }
                self.fault.changed().await.ok()?;
                return Some(0);
            }
            Some(fault @ Fault::BlackHole) => return Some(self.lose(fault, bytes)),
            Some(fault @ Fault::AnswersLost) if self.answers => return Some(self.lose(fault, bytes)),
            _ if self.is_lost() && fault != Some(Fault::AnswersLost) => return Some(bytes.len()),
            Some(fault @ Fault::Delay(span)) => {
                self.counts.add(fault);
                tokio::time::sleep(span).await;
            }
            Some(fault @ Fault::Trickle(per_second)) => {
                self.counts.add(fault);
                return self.trickle(bytes, to, per_second).await;
            }
            Some(Fault::AnswersLost) | None => {}
        }
        to.write_all(bytes).await.ok()?;
        Some(bytes.len())
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, fault: Fault, bytes: &[u8]) -> usize {
        self.counts.add(fault);
        self.lost.store(true, Ordering::Relaxed);
        bytes.len()
    }

    async fn trickle(&self, bytes: &[u8], to: &mut WriteHalf<'_>, per_second: u32) -> Option<usize> {
        const PIECES_A_SECOND: u32 = 50;
        let length = (per_second / PIECES_A_SECOND).max(1);
        let piece = &bytes[..bytes.len().min(length as usize)];
        to.write_all(piece).await.ok()?;
        tokio::time::sleep(Duration::from_secs(1) * length / per_second.max(1)).await;
        Some(piece.len())
    }
}
