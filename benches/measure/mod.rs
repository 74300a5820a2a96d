//! Servers in threads of their own, a driver that asks them in turn, and the table of what came of it.
//!
//! One driver asks the servers in turn, a slice of time each, over the same number of keep-alive connections of this machine, with one
//! request in flight on each. The figures to look at are the ratios: they are taken slice by slice, so that a machine that grows slower
//! meanwhile makes all of them slower. CPU time is that of the server's thread, the kernel's part of it included; it is known on Linux only.

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use axum::http::header::{CONTENT_LENGTH, DATE};
use axum::http::{HeaderName, HeaderValue, Response};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::runtime;

pub(super) const CONNECTIONS: usize = 64;
/// The first slice of each server is its warm-up.
pub(super) const SLICES: usize = 9;
pub(super) const SLICE: Duration = Duration::from_millis(800);
const MOST_REQUESTS: u32 = 1_000_000;
/// No answer takes this long.
const STUCK: Duration = Duration::from_secs(5);

/// A running server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Where its thread's CPU time is read, if it can be.
    schedstat: Option<PathBuf>,
}

impl Server {
    /// Starts a server in a thread of its own; it ends with the process.
    pub(super) fn start(run: impl AsyncFnOnce(TcpListener) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("this machine has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let thread = fs::read_link("/proc/thread-self").ok();
            sender.send(thread.map(|thread| Path::new("/proc").join(thread).join("schedstat"))).expect("it is awaited");
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime is built");
            runtime.block_on(run(listener)).expect("the server runs");
        });
        Self { address, schedstat: receiver.recv().expect("the thread begins") }
    }

    /// The CPU time that its thread has had.
    fn cpu_time(&self) -> Option<Duration> {
        let schedstat = fs::read_to_string(self.schedstat.as_ref()?).ok()?;
        schedstat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

/// What the servers answer that do nothing.
pub(super) struct Fixed {
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Fixed {
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// Serves with hyper and nothing else; the service of each connection is what `make` makes.
pub(super) async fn serve_bare<S, B>(listener: TcpListener, make: impl Fn() -> S) -> io::Result<()>
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send> + Send + 'static,
    B: HttpBody<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection ends when the driver ends; there is nobody to tell.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), make()));
    }
}

/// An answer taken apart.
pub(super) struct Answer {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    /// Of the whole answer, in bytes.
    pub(super) length: usize,
}

impl Answer {
    /// The answer to one request on a connection of its own.
    pub(super) fn of(server: &Server, request: &[u8]) -> io::Result<Self> {
        let mut stream = connect(server)?;
        stream.write_all(request)?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&buffer[..read]);
            if let Some(answer) = Self::parse(&bytes) {
                return Ok(answer);
            }
        }
    }

    /// `None` while it is not complete.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, body) = std::str::from_utf8(bytes).ok()?.split_once("\r\n\r\n")?;
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: Vec<(HeaderName, HeaderValue)> =
            lines.map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?))).collect::<Option<_>>()?;
        let length = headers.iter().find(|(name, _)| name == CONTENT_LENGTH)?.1.to_str().ok()?;
        let body = Bytes::copy_from_slice(body.as_bytes());
        (length == body.len().to_string()).then_some(Self { headers, body, length: bytes.len() })
    }

    /// The same answer, for a server that does nothing. Hyper adds the date and the length itself.
    pub(super) fn fixed(mut self) -> Arc<Fixed> {
        self.headers.retain(|(name, _)| name != DATE && name != CONTENT_LENGTH);
        Arc::new(Fixed { headers: self.headers, body: self.body })
    }
}

pub(super) fn connect(server: &Server) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STUCK))?;
    Ok(stream)
}

/// A server, what it is asked, and what came of it.
pub(super) struct Row<'a> {
    name: &'static str,
    server: &'a Server,
    requests: &'a [Vec<u8>],
    connections: Vec<TcpStream>,
    pub(super) answer_length: usize,
    slices: Vec<Slice>,
}

/// One server's turn.
struct Slice {
    requests_per_second: f64,
    /// Microseconds of CPU time per request.
    cpu: Option<f64>,
}

impl<'a> Row<'a> {
    pub(super) fn new(name: &'static str, server: &'a Server, requests: &'a [Vec<u8>]) -> io::Result<Self> {
        let answer_length = Answer::of(server, &requests[0])?.length;
        let connections = (0..CONNECTIONS).map(|_| connect(server)).collect::<io::Result<_>>()?;
        Ok(Self { name, server, requests, connections, answer_length, slices: Vec::new() })
    }

    /// Asks on every connection again as soon as it has answered. Each answer must be as long as the first was, and a 200.
    pub(super) fn run_slice(&mut self) -> io::Result<()> {
        let mut requests = self.requests.iter().cycle();
        let mut answer = vec![0; self.answer_length];
        let mut answered = 0_u32;
        let cpu_before = self.server.cpu_time();
        let began = Instant::now();
        for (connection, request) in self.connections.iter_mut().zip(&mut requests) {
            connection.write_all(request)?;
        }
        let mut goes_on = true;
        while goes_on {
            goes_on = answered < MOST_REQUESTS && began.elapsed() < SLICE;
            for connection in &mut self.connections {
                connection.read_exact(&mut answer)?;
                if !answer.starts_with(b"HTTP/1.1 200 ") {
                    return Err(io::Error::other(String::from_utf8_lossy(&answer)));
                }
                answered += 1;
                if let Some(request) = requests.next().filter(|_| goes_on) {
                    connection.write_all(request)?;
                }
            }
        }
        let requests_per_second = f64::from(answered) / began.elapsed().as_secs_f64();
        let cpu = cpu_before
            .zip(self.server.cpu_time())
            .map(|(before, after)| after.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(answered));
        self.slices.push(Slice { requests_per_second, cpu });
        Ok(())
    }
}

pub(super) fn print_table(rows: &[Row<'_>], what: &str) {
    println!(
        "{SLICES} slices of {SLICE:?} each, the first a warm-up; {CONNECTIONS} connections, {what}, answers of {} bytes",
        rows[0].answer_length
    );
    println!(
        "ratios to the first row, slice by slice: minimum, median, maximum; above 1 is better than the first row\n"
    );
    let blank = "";
    println!("{blank:40}{:>10} {:^19}{:>8} {:^19}", "requests", "ratio", "CPU µs", "ratio of requests");
    println!("{blank:40}{:>10} {blank:^19}{:>8} {:^19}", "per second", "/request", "per CPU second");
    let (bare_speed, bare_cpu) = (speeds(&rows[0]), costs(&rows[0]));
    for row in rows {
        let (speed, cpu) = (speeds(row), costs(row));
        println!(
            "{:40}{:>10.0} {:^19}{:>8} {:^19}",
            row.name,
            median(&speed),
            spread(&speed, &bare_speed),
            cpu.as_deref().map_or_else(|| "–".to_owned(), |cpu| format!("{:.2}", median(cpu))),
            bare_cpu.as_deref().zip(cpu.as_deref()).map_or_else(|| "–".to_owned(), |(bare, cpu)| spread(bare, cpu)),
        );
    }
}

fn speeds(row: &Row<'_>) -> Vec<f64> {
    row.slices.iter().skip(1).map(|slice| slice.requests_per_second).collect()
}

fn costs(row: &Row<'_>) -> Option<Vec<f64>> {
    row.slices.iter().skip(1).map(|slice| slice.cpu).collect()
}

/// Minimum, median and maximum of the quotients, pair by pair.
fn spread(dividends: &[f64], divisors: &[f64]) -> String {
    let mut quotients: Vec<_> = dividends.iter().zip(divisors).map(|(dividend, divisor)| dividend / divisor).collect();
    quotients.sort_by(f64::total_cmp);
    format!("{:.2}  {:.2}  {:.2}", quotients[0], median(&quotients), quotients[quotients.len() - 1])
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
