//! A minimal HTTP/1.1 server for scrapers and probes: one request a connection, bounded in bytes, time and number.
//! Reads the request line alone; serves pages that are made on the spot, and no files.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use crate::error::{Error, Result};

/// Bytes of a request's head at most.
const HEAD_MAX: usize = 8 * 1024;
/// How long one exchange may take, from accepting the connection to the last byte of the answer.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Connections served at a time. One more ends the oldest: those who ask and wait are served within milliseconds, so it is one that
/// only sits there.
const CONNECTIONS: usize = 16;
/// How long to wait after a connection that could not be accepted, as when the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(500);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status with its reason, such as `200 OK`.
    pub status: &'static str,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A short text.
    pub fn text(status: &'static str, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// A listener that nobody is answered on yet.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// Listens on this address. Fails as unavailable where another process does already, and as invalid where it can't be had.
    pub async fn bind(address: SocketAddr) -> Result<Server> {
        let listener = TcpListener::bind(address).await;
        listener.map(Server).map_err(|error| {
            let what = format!("metrics can't be served address={address}");
            let error_of = match error.kind() {
                std::io::ErrorKind::AddrInUse => Error::unavailable(what).hint(
                    "another process listens there; several archivers on one host need an address each ([metrics] listen)",
                ),
                _ => Error::invalid(what).hint("[metrics] listen must be an address of this host, and a port that this account may use"),
            };
            error_of.because(error)
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.0.local_addr().map_err(|e| Error::internal("a listener has no address").because(e))
    }

    /// Answers until it is dropped: `GET` and `HEAD` of what `page` knows by its path.
    pub async fn serve(self, page: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) {
        let page = Arc::new(page);
        let mut exchanges = JoinSet::new();
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection for metrics was not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while exchanges.try_join_next().is_some() {}
            open.retain(|exchange| !exchange.is_finished());
            if open.len() == CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let page = Arc::clone(&page);
            open.push_back(exchanges.spawn(async move {
                // Who is too slow, or goes away, has no answer; nobody else minds.
                let _ = tokio::time::timeout(EXCHANGE, exchange(stream, &*page)).await;
            }));
        }
    }
}

async fn exchange(
    mut stream: TcpStream,
    page: &(impl Fn(&str) -> Option<Answer> + Sync),
) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (answer, with_body) = answer(&head, page);
    let Answer { status, content_type, body } = answer;
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Allow: GET, HEAD\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        reply.push_str(&body);
    }
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// The bytes up to the empty line that ends a request's head, or as many as are read at most.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    let mut limited = stream.take(HEAD_MAX as u64);
    while !is_complete(&head) && limited.read_buf(&mut head).await? > 0 {}
    Ok(head)
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

/// The answer, and whether its body is sent.
fn answer(head: &[u8], page: &impl Fn(&str) -> Option<Answer>) -> (Answer, bool) {
    if !is_complete(head) {
        let status =
            if head.len() < HEAD_MAX { "400 Bad Request" } else { "431 Request Header Fields Too Large" };
        return (Answer::text(status, "not a request\n"), true);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&str> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else {
        return (Answer::text("400 Bad Request", "not a request\n"), true);
    };
    if !matches!(method, "GET" | "HEAD") {
        return (Answer::text("405 Method Not Allowed", "GET or HEAD\n"), true);
    }
    let path = target.split('?').next().unwrap_or_default();
    let answer = page(path).unwrap_or_else(|| Answer::text("404 Not Found", "no such page\n"));
    (answer, method == "GET")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn page(path: &str) -> Option<Answer> {
        (path == "/metrics").then(|| Answer::text("200 OK", "x 1\n"))
    }

    fn status(request: &[u8]) -> &'static str {
        answer(request, &page).0.status
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = Vec::new();
        // One that is refused before it was read to its end may be reset.
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8(reply).unwrap()
    }

    #[tokio::test]
    async fn those_who_sit_there_or_talk_nonsense_keep_nobody_from_an_answer() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address().unwrap();
        let serving = tokio::spawn(server.serve(page));
        let mut silent = Vec::new();
        for n in 0..3 * CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&b"GET /metrics HTTP/1.1\r\n"[..n % 20]).await.unwrap();
            silent.push(stream);
        }
        assert!(ask(address, &[0xff; 3 * HEAD_MAX]).await.len() < 1024);
        assert!(ask(address, b"\x16\x03\x01 a TLS client\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let reply = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nx 1\n"), "{reply}");
        let reply = ask(address, b"HEAD /metrics HTTP/1.1\r\n\r\n").await;
        assert!(reply.contains("Content-Length: 4\r\n") && reply.ends_with("\r\n\r\n"), "{reply}");
        let mut rest = Vec::new();
        assert!(silent[0].read_to_end(&mut rest).await.unwrap_or(0) == 0, "the oldest had to make room");
        serving.abort();
    }

    #[tokio::test]
    async fn an_address_that_can_t_be_had_says_what_to_do() {
        let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let second = Server::bind(first.address().unwrap()).await.unwrap_err();
        assert_eq!(second.kind(), Kind::Unavailable);
        assert!(second.hint_text().unwrap().contains("[metrics] listen"));
        let elsewhere = Server::bind("192.0.2.1:9464".parse().unwrap()).await.unwrap_err();
        assert_eq!(elsewhere.kind(), Kind::Invalid);
    }

    #[test]
    fn a_page_is_had_by_its_path_and_everything_else_is_refused() {
        for target in ["/metrics", "/metrics?name[]=x"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(answer(request.as_bytes(), &page), (Answer::text("200 OK", "x 1\n"), true));
        }
        assert!(!answer(b"HEAD /metrics HTTP/1.0\r\n\r\n", &page).1);
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        for garbage in [
            &b"\r\n\r\n"[..],
            b"GET /metrics\r\n\r\n",
            b"\xff\xfe / HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\n",
            b"",
        ] {
            assert_eq!(status(garbage), "400 Bad Request", "{garbage:?}");
        }
        assert_eq!(status(&[b'a'; HEAD_MAX]), "431 Request Header Fields Too Large");
    }
}
