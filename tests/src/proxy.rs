//! A bad network: a TCP proxy on a free loopback port that cuts, delays, stalls or throttles what passes, each way by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are passed on at a time.
const PIECE: usize = 16 * 1024;

/// How bytes of one direction pass.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Flow {
    /// At once.
    #[default]
    Free,
    /// Each piece this much later.
    Delayed(Duration),
    /// Not at all, and nobody is told.
    Stalled,
    /// This many bytes a second.
    Throttled(u64),
}

/// How the network is.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// From those who connect to the server.
    pub up: Flow,
    /// From the server back.
    pub down: Flow,
    /// Counts cuts: a connection ends when it changes.
    cuts: u64,
    /// Counts the times at which connections were left hanging: those that were open then stay so, silent for ever.
    abandoned: u64,
    /// Ends a connection once it has passed these bytes on to the server, before the answer.
    lose_answer_to: Option<Arc<[u8]>>,
}

/// A proxy in front of one server; gone when dropped, and every connection through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `host:port`.
    pub async fn start(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (weather, receiver) = watch::channel(Weather::default());
        let (server, sender) = (server.to_owned(), weather.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, receiver, sender) = (server.clone(), receiver.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        pass(client, server, receiver, sender).await;
                    }
                });
            }
        });
        Proxy { address, weather, accepting }
    }

    /// `mongodb://…` through the proxy alone: a client that asked the server for its members would go round it. The
    /// driver gives up a server that is silent for two seconds, not for twenty as it does by itself.
    pub fn uri(&self) -> String {
        format!(
            "mongodb://{}/?directConnection=true&heartbeatFrequencyMS=1000&connectTimeoutMS=1000",
            self.address
        )
    }

    /// Ends every connection now; new ones can be made.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Leaves every connection hanging, open on both sides and silent for ever; new ones can be made. What a firewall that
    /// forgets connections does, or a host that vanishes.
    pub fn abandon(&self) {
        self.weather.send_modify(|weather| weather.abandoned += 1);
    }

    /// Ends the next connection that asks for something with these bytes in it, once the server has been asked.
    pub fn lose_answer_to(&self, command: &str) {
        self.weather.send_modify(|weather| weather.lose_answer_to = Some(command.as_bytes().into()));
    }

    /// Whether an answer is still to be lost.
    pub fn is_armed(&self) -> bool {
        self.weather.borrow().lose_answer_to.is_some()
    }

    /// How bytes pass from now on.
    pub fn set(&self, up: Flow, down: Flow) {
        self.weather.send_modify(|weather| (weather.up, weather.down) = (up, down));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    weather: watch::Receiver<Weather>,
    sender: watch::Sender<Weather>,
) {
    let (began, mut cut) = (weather.borrow().clone(), weather.clone());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = up(from_client, to_server, weather.clone(), began.abandoned, &sender) => {}
        () = down(from_server, to_client, weather, began.abandoned) => {}
        _ = cut.wait_for(|now| now.cuts != began.cuts) => {}
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    abandoned: u64,
    sender: &watch::Sender<Weather>,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        wait(&mut weather, |w| w.up, length, abandoned).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
        let is_it = |command: &Arc<[u8]>| piece[..length].windows(command.len()).any(|w| *w == **command);
        let lost = sender.send_if_modified(|w| w.lose_answer_to.take_if(|command| is_it(command)).is_some());
        if lost {
            // Time for the server to read it: a connection that is closed at once may take its last bytes with it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return;
        }
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    abandoned: u64,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        wait(&mut weather, |w| w.down, length, abandoned).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// Waits until a piece may pass.
async fn wait(
    weather: &mut watch::Receiver<Weather>,
    flow: impl Fn(&Weather) -> Flow,
    length: usize,
    abandoned: u64,
) {
    if weather.borrow().abandoned != abandoned {
        std::future::pending::<()>().await;
    }
    let now = flow(&weather.borrow());
    match now {
        Flow::Free => {}
        Flow::Delayed(time) => tokio::time::sleep(time).await,
        Flow::Throttled(rate) => {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await
        }
        Flow::Stalled => {
            let goes_on = weather.wait_for(|w| flow(w) != Flow::Stalled || w.abandoned != abandoned).await;
            let hangs = goes_on.is_ok_and(|w| w.abandoned != abandoned);
            if hangs {
                std::future::pending::<()>().await;
            }
        }
    }
}
