//! What a running archiver serves over HTTP.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Running, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Where a running archiver serves metrics, as it says itself.
pub async fn address(archiver: &Running) -> String {
    wait_until("the address of the metrics", SOON, async || {
        let log = archiver.stderr();
        let address = log.split("serving metrics address=").nth(1)?.split_whitespace().next()?;
        Some(address.to_owned())
    })
    .await
}

/// Status and body of a page.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").expect("an HTTP reply");
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), body.len());
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
