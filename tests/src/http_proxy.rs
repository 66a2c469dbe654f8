//! A bad object store: an HTTP proxy in front of a good one, that refuses, loses, cuts, slows down and holds back what passes,
//! by a seed.
//!
//! It knows as much of HTTP/1.1 as it takes to see one request with its body. Each connection is for one request.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;
/// Into how many pieces a slow body is cut, and how long each waits.
const SLOW: (usize, Duration) = (8, Duration::from_millis(40));

/// Held while an object is created.
static CREATING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What becomes of one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is answered by the store.
    Pass,
    /// The store does not get it; this is the answer.
    Refuse {
        /// Such as 503.
        status: u16,
        /// Such as `SlowDown`: the code in the answer's body, as S3 and Azure have it.
        code: &'static str,
        /// The message beside it.
        message: &'static str,
    },
    /// The store gets it, and its answer is lost.
    LoseReply,
    /// The store gets half of it, and nobody an answer.
    CutRequest,
    /// The store gets it, and half of the answer is passed on.
    CutReply,
    /// Both bodies come piece by piece.
    Slow,
    /// The store does not get it, and nobody is told.
    Hang,
    /// The store gets it, and nobody is told.
    HangBehind,
}

impl Fate {
    /// An answer of the proxy's own.
    pub const fn refuse(status: u16, code: &'static str, message: &'static str) -> Fate {
        Fate::Refuse { status, code, message }
    }
}

/// How the store is.
#[derive(Debug, Clone, Default)]
pub enum Weather {
    /// As good as it is by itself.
    #[default]
    Fair,
    /// Of a hundred requests, each so many meet each fate. The last word: whether it concerns requests that create something alone.
    Foul(Vec<(u32, Fate, Only)>),
    /// Every request meets this fate.
    Always(Fate, Only),
    /// Connections are refused, and those that are open end.
    Down,
}

/// Which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// All of them.
    All,
    /// Those that create an object.
    Puts,
    /// Those that read one.
    Gets,
    /// Those that list.
    Lists,
}

/// The weather of the tests: everything that an object store and the way to it can do.
pub fn storm() -> Weather {
    const ERROR: Fate =
        Fate::refuse(500, "InternalError", "We encountered an internal error. Please try again.");
    const SLOW_DOWN: Fate = Fate::refuse(503, "SlowDown", "Please reduce your request rate.");
    const CONFLICT: Fate = Fate::refuse(
        409,
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    );
    const EXISTS: Fate =
        Fate::refuse(412, "PreconditionFailed", "At least one of the pre-conditions did not hold");
    Weather::Foul(vec![
        (15, ERROR, Only::All),
        (15, SLOW_DOWN, Only::All),
        (10, Fate::LoseReply, Only::All),
        (5, CONFLICT, Only::Puts),
        (5, EXISTS, Only::Puts),
        (4, Fate::CutRequest, Only::All),
        (4, Fate::CutReply, Only::All),
        (4, Fate::Slow, Only::All),
        (1, Fate::Hang, Only::All),
        (1, Fate::HangBehind, Only::All),
    ])
}

/// What credentials meet that have expired.
pub const EXPIRED: Fate = Fate::refuse(403, "ExpiredToken", "The provided token has expired.");

/// A proxy in front of one store; gone when dropped, and every connection through it.
#[derive(Debug)]
pub struct HttpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    store: String,
    weather: watch::Sender<Weather>,
    rng: Mutex<StdRng>,
    met: Mutex<BTreeMap<Fate, u64>>,
}

impl HttpProxy {
    /// In front of `host:port`, in fair weather.
    pub async fn start(store: &str, seed: u64) -> HttpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            store: store.to_owned(),
            weather: watch::Sender::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            met: Mutex::default(),
        });
        let of_all = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&of_all);
                tokio::spawn(async move {
                    let mut weather = shared.weather.subscribe();
                    let down = weather.wait_for(|now| matches!(now, Weather::Down));
                    tokio::select! {
                        biased;
                        // Also where its proxy is gone.
                        _ = down => {}
                        _ = pass(client, &shared) => {}
                    }
                });
            }
        });
        HttpProxy { address, shared, accepting }
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How the store is from now on.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// How many requests met each fate so far.
    pub fn met(&self) -> BTreeMap<Fate, u64> {
        self.shared.met.lock().expect("nobody panics with it").clone()
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.met().values().sum()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Weather::Down);
    }
}

impl Shared {
    fn fate(&self, request: &Request) -> Fate {
        let concerned = |only: Only| only == Only::All || request.kind() == Some(only);
        let fate = match &*self.weather.borrow() {
            Weather::Fair | Weather::Down => Fate::Pass,
            Weather::Always(fate, only) if concerned(*only) => fate.clone(),
            Weather::Always(..) => Fate::Pass,
            Weather::Foul(fates) => {
                let mut rng = self.rng.lock().expect("nobody panics with it");
                let mut left = rng.random_range(0..100_u32);
                let hit = fates.iter().find(|(share, ..)| {
                    let hit = left < *share;
                    left = left.saturating_sub(*share);
                    hit
                });
                hit.filter(|(.., only)| concerned(*only)).map_or(Fate::Pass, |(_, fate, _)| fate.clone())
            }
        };
        *self.met.lock().expect("nobody panics with it").entry(fate.clone()).or_default() += 1;
        fate
    }
}

/// One request, as it came.
struct Request {
    method: String,
    target: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    fn kind(&self) -> Option<Only> {
        let lists = self.target.contains("list-type=2") || self.target.contains("comp=list");
        match self.method.as_str() {
            "PUT" => Some(Only::Puts),
            "GET" if lists => Some(Only::Lists),
            "GET" | "HEAD" => Some(Only::Gets),
            _ => None,
        }
    }
}

async fn pass(mut client: TcpStream, shared: &Shared) -> Result<()> {
    let Some(request) = read_request(&mut client).await? else { return Ok(()) };
    let fate = shared.fate(&request);
    match fate {
        Fate::Hang => return std::future::pending().await,
        Fate::Refuse { status, code, message } => {
            return client.write_all(&refusal(&request, status, code, message)).await;
        }
        _ => {}
    }
    // moto looks whether an object is there and creates it in two steps, between which others come. Real stores do not.
    let one_at_a_time = match request.method.as_str() {
        "PUT" => Some(CREATING.lock().await),
        _ => None,
    };
    let mut store = TcpStream::connect(&shared.store).await?;
    store.write_all(&request.head).await?;
    match fate {
        Fate::CutRequest => {
            store.write_all(&request.body[..request.body.len() / 2]).await?;
            return store.flush().await;
        }
        Fate::Slow => write_slowly(&mut store, &request.body).await?,
        _ => store.write_all(&request.body).await?,
    }
    let mut reply = Vec::new();
    store.read_to_end(&mut reply).await?;
    drop(one_at_a_time);
    match fate {
        Fate::LoseReply => Ok(()),
        Fate::HangBehind => std::future::pending().await,
        Fate::CutReply => client.write_all(&reply[..reply.len() / 2]).await,
        Fate::Slow => write_slowly(&mut client, &reply).await,
        _ => client.write_all(&reply).await,
    }
}

async fn write_slowly(to: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    for piece in bytes.chunks(bytes.len().div_ceil(SLOW.0).max(1)) {
        to.write_all(piece).await?;
        to.flush().await?;
        tokio::time::sleep(SLOW.1).await;
    }
    Ok(())
}

/// An answer such as S3 and Azure give.
fn refusal(request: &Request, status: u16, code: &str, message: &str) -> Vec<u8> {
    let body = match request.method.as_str() {
        "HEAD" => String::new(),
        _ => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        ),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nx-ms-error-code: {code}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads one request whole; its head asks the store to close the connection behind its answer. `None` where the client has
/// nothing to ask.
async fn read_request(client: &mut TcpStream) -> Result<Option<Request>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at;
        }
        if read_more(client, &mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes.split_off(end + 4);
    let lower = head.to_ascii_lowercase();
    let value = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:").is_some_and(|value| value.contains("chunked")) {
        // No trailers: it ends with the chunk of no bytes.
        while find(&body, b"0\r\n\r\n").is_none_or(|at| at + 5 != body.len()) {
            more_or_fail(client, &mut body).await?;
        }
    } else {
        let length = value("content-length:").and_then(|value| value.parse().ok()).unwrap_or(0);
        while body.len() < length {
            more_or_fail(client, &mut body).await?;
        }
    }
    let mut words = head.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = format!("{}\r\nConnection: close\r\n\r\n", kept.collect::<Vec<_>>().join("\r\n")).into_bytes();
    Ok(Some(Request { method, target, head, body }))
}

async fn more_or_fail(client: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<()> {
    match read_more(client, bytes).await? {
        0 => Err(Error::from(ErrorKind::UnexpectedEof)),
        _ => Ok(()),
    }
}

async fn read_more(client: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<usize> {
    let mut piece = vec![0; PIECE];
    let length = client.read(&mut piece).await?;
    bytes.extend_from_slice(&piece[..length]);
    Ok(length)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
