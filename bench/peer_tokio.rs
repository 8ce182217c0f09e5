//! Peers in Rust: Tokio's tasks beside coroutines, and servers by Tokio and hyper.
//!
//!     peer_tokio CASE-WORKERS MILLISECONDS         as bench.h
//!     peer_tokio echo-WORKERS|http-WORKERS PORT    servers, on 127.0.0.1
//!
//! One worker is Tokio's current-thread runtime, which is its fastest; several are its multi-thread one.
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, Notify};
use tokio::task::JoinHandle;

const ROUND_TRIPS: usize = 20_000;
const SELECT_CHANNELS: usize = 8;
const SELECT_MESSAGES: usize = 5_000; // of each channel
const SKYNET_LEAVES: u64 = 1_000_000;
const SKYNET_FAN_OUT: u64 = 10;
const TASKS: usize = 1_000_000;
const TASK_SPAN: Duration = Duration::from_micros(1);
const CONTENDERS: usize = 100;
const LOCKED_PER_LOOK: usize = 256; // a look at the clock costs more than a lock
const SLEEPERS: usize = 1_000_000;
const SLEEP_LEAST_NS: u64 = 1_000_000_000;
const NS_PER_MS: f64 = 1e6;
const BACKLOG: u32 = 4096;
const ECHO_BUFFER_BYTES: usize = 128; // a read that leaves room tells Tokio that there is no more

fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.enable_all().build().expect("a runtime")
}

/// Runs it as a task, since what block_on itself runs is on no worker.
fn run_task<F>(rt: &Runtime, task: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    rt.block_on(rt.spawn(task)).expect("a task that ends")
}

/// As bench_batches.
fn batches<F>(rt: &Runtime, name: &str, span: Duration, batch: fn() -> F, operations: f64)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut took = Vec::new();
    run_task(rt, batch());
    let end = Instant::now() + span;
    while took.is_empty() || Instant::now() < end {
        let begin = Instant::now();
        run_task(rt, batch());
        took.push(begin.elapsed().as_nanos() as f64);
    }
    took.sort_by(f64::total_cmp);
    println!("{} {:.4}", name, took[took.len() / 2] / operations);
}

/// Tokio has no unbuffered channel: a capacity of one comes closest.
async fn ping_pong() {
    let (ping, mut pinged) = mpsc::channel(1);
    let (pong, mut ponged) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(value) = pinged.recv().await {
            pong.send(value).await.expect("a receiver");
        }
    });
    for i in 0..ROUND_TRIPS {
        ping.send(i).await.expect("a receiver");
        assert_eq!(ponged.recv().await, Some(i));
    }
}

async fn feed(to: mpsc::Sender<usize>) {
    for _ in 0..SELECT_MESSAGES {
        to.send(1).await.expect("a receiver");
    }
}

fn fed_channel() -> mpsc::Receiver<usize> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed(sender));
    receiver
}

async fn select_among_all() {
    let mut channels: [mpsc::Receiver<usize>; SELECT_CHANNELS] = std::array::from_fn(|_| fed_channel());
    let [a, b, c, d, e, f, g, h] = &mut channels;
    let mut got = 0;
    while got < SELECT_CHANNELS * SELECT_MESSAGES {
        got += tokio::select! {
            Some(n) = a.recv() => n,
            Some(n) = b.recv() => n,
            Some(n) = c.recv() => n,
            Some(n) = d.recv() => n,
            Some(n) = e.recv() => n,
            Some(n) = f.recv() => n,
            Some(n) = g.recv() => n,
            Some(n) = h.recv() => n,
        };
    }
}

/// The numbers from first to first + leaves - 1, summed up by a tree.
fn spawn_node(first: u64, leaves: u64) -> JoinHandle<u64> {
    if leaves == 1 {
        tokio::spawn(async move { first })
    } else {
        tokio::spawn(inner_node(first, leaves))
    }
}

async fn inner_node(first: u64, leaves: u64) -> u64 {
    let part = leaves / SKYNET_FAN_OUT;
    let children: Vec<_> = (0..SKYNET_FAN_OUT).map(|i| spawn_node(first + i * part, part)).collect();
    let mut sum = 0;
    for child in children {
        sum += child.await.expect("a child's sum");
    }
    sum
}

async fn skynet() {
    assert_eq!(inner_node(0, SKYNET_LEAVES).await, SKYNET_LEAVES * (SKYNET_LEAVES - 1) / 2);
}

/// Counts tasks down; cheaper than their handles.
struct Running {
    count: AtomicUsize,
    none: Notify,
}

impl Running {
    fn new(count: usize) -> Arc<Running> {
        Arc::new(Running { count: AtomicUsize::new(count), none: Notify::new() })
    }

    fn one_ends(&self) {
        if self.count.fetch_sub(1, AcqRel) == 1 {
            self.none.notify_one();
        }
    }
}

fn work() {
    let begin = Instant::now();
    while begin.elapsed() < TASK_SPAN {}
}

async fn steal() {
    let running = Running::new(TASKS);
    for _ in 0..TASKS {
        let running = running.clone();
        tokio::spawn(async move {
            work();
            running.one_ends();
        });
    }
    running.none.notified().await;
}

/// A contender's share, with Tokio's lock.
async fn contend(lock: Arc<tokio::sync::Mutex<usize>>, end: Instant) -> usize {
    let mut mine = 0;
    while Instant::now() < end {
        for _ in 0..LOCKED_PER_LOOK {
            *lock.lock().await += 1;
        }
        mine += LOCKED_PER_LOOK;
    }
    mine
}

/// The same with the standard library's, which blocks the worker: its tasks never give one away.
async fn contend_std(lock: Arc<std::sync::Mutex<usize>>, end: Instant) -> usize {
    let mut mine = 0;
    while Instant::now() < end {
        for _ in 0..LOCKED_PER_LOOK {
            *lock.lock().expect("a lock") += 1;
        }
        mine += LOCKED_PER_LOOK;
    }
    mine
}

/// Runs the contenders for that time; as bench_shares.
fn mutex<L, F>(rt: &Runtime, name: &str, span: Duration, contender: fn(Arc<L>, Instant) -> F)
where
    L: Default + Send + Sync + 'static,
    F: Future<Output = usize> + Send + 'static,
{
    let begin = Instant::now();
    let shares = run_task(rt, async move {
        let lock = Arc::new(L::default());
        let all: Vec<_> = (0..CONTENDERS).map(|_| tokio::spawn(contender(lock.clone(), begin + span))).collect();
        let mut shares = Vec::new();
        for one in all {
            shares.push(one.await.expect("a share"));
        }
        shares
    });
    let took = begin.elapsed().as_nanos() as f64;
    let (least, sum) = (*shares.iter().min().unwrap(), shares.iter().sum::<usize>());
    println!("{} {:.4}", name, took / sum as f64);
    println!("{}-share {:.4}", name, (least * CONTENDERS) as f64 / sum as f64);
}

/// As bench_random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

async fn sleep_all() {
    let running = Running::new(SLEEPERS);
    let mut numbers = Random(88172645463325252);
    for _ in 0..SLEEPERS {
        let span = Duration::from_nanos(SLEEP_LEAST_NS + numbers.next() % SLEEP_LEAST_NS);
        let running = running.clone();
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            running.one_ends();
        });
    }
    running.none.notified().await;
}

fn cpu_ns() -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to ts only.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut ts) };
    ts.tv_sec * 1_000_000_000 + ts.tv_nsec
}

/// The first round, in which memory is taken, does not count.
fn sleepers(rt: &Runtime, name: &str) {
    run_task(rt, sleep_all());
    let cpu = cpu_ns();
    run_task(rt, sleep_all());
    println!("{} {:.4}", name, (cpu_ns() - cpu) as f64 / NS_PER_MS);
}

/// Resident memory and page tables.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let lines = status.lines().filter(|line| line.starts_with("VmRSS:") || line.starts_with("VmPTE:"));
    1024.0 * lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()).sum::<f64>()
}

#[inline(never)]
fn look(locals: &mut [u8; 200], n: u8) {
    for byte in locals {
        *byte = byte.wrapping_add(n);
    }
}

/// Parked for ever, with 200 bytes of live locals, or none; on one worker.
fn parked(name: &str, count: usize, locals_bytes: usize) {
    let before = memory();
    let rt = runtime(1);
    rt.block_on(async {
        for i in 0..count {
            if locals_bytes > 0 {
                tokio::spawn(async move {
                    let mut locals = [i as u8; 200];
                    look(&mut locals, i as u8);
                    std::future::pending::<()>().await;
                    look(&mut locals, i as u8);
                });
            } else {
                tokio::spawn(std::future::pending::<()>());
            }
            if i % 1000 == 999 {
                tokio::task::yield_now().await;
            }
        }
        tokio::task::yield_now().await;
        println!("{} {:.4}", name, (memory() - before) / count as f64);
    });
    std::process::exit(0);
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    socket.listen(BACKLOG)
}

async fn serve_echo(port: u16) -> std::io::Result<()> {
    let listener = listen(port)?;
    loop {
        let (mut conn, _) = listener.accept().await?;
        conn.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = [0; ECHO_BUFFER_BYTES];
            while let Ok(got @ 1..) = conn.read(&mut buffer).await {
                if conn.write_all(&buffer[..got]).await.is_err() {
                    break;
                }
            }
        });
    }
}

type Answer = Result<hyper::Response<hyper::Body>, Infallible>;

async fn hello(_: hyper::Request<hyper::Body>) -> Answer {
    let mut answer = hyper::Response::new(hyper::Body::from("hello"));
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain"));
    Ok(answer)
}

async fn serve_http(port: u16) -> hyper::Result<()> {
    let listener = listen(port).and_then(TcpListener::into_std).expect("the port");
    let connection = hyper::service::make_service_fn(|_| async { Ok::<_, Infallible>(hyper::service::service_fn(hello)) });
    hyper::Server::from_tcp(listener)?.tcp_nodelay(true).serve(connection).await
}

fn run(rt: &Runtime, name: &str, number: u16) -> Option<()> {
    let span = Duration::from_millis(number.into());
    match name.rsplit_once('-')?.0 {
        "channel" => batches(rt, name, span, ping_pong, 2.0 * ROUND_TRIPS as f64),
        "select" => batches(rt, name, span, select_among_all, (SELECT_CHANNELS * SELECT_MESSAGES) as f64),
        "skynet" => batches(rt, name, span, skynet, NS_PER_MS),
        "steal" => batches(rt, name, span, steal, NS_PER_MS),
        "mutex" => mutex(rt, name, span, contend),
        "mutex-std" => mutex(rt, name, span, contend_std),
        "sleepers-random" => sleepers(rt, name),
        "echo" => rt.block_on(serve_echo(number)).expect("an echo server"),
        "http" => rt.block_on(serve_http(number)).expect("an HTTP server"),
        _ => return None,
    }
    Some(())
}

fn run_arguments(name: &str, number: &str) -> Option<()> {
    let workers = name.rsplit_once('-')?.1.parse().ok().filter(|&workers| workers > 0)?;
    run(&runtime(workers), name, number.parse().ok()?)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [name, _] if name.starts_with("parked-") => {
            parked(name, name.rsplit_once('-').unwrap().1.parse().expect("a number"), if name.contains("bare") { 0 } else { 200 });
            Some(())
        }
        [name, number] => run_arguments(name, number),
        _ => None,
    };
    if done.is_none() {
        eprintln!("usage: peer_tokio CASE-WORKERS MILLISECONDS | peer_tokio echo-WORKERS|http-WORKERS PORT");
        std::process::exit(2);
    }
}
