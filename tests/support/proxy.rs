//! A wire between a client and a server that can be cut, or made to lose every answer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Open,
    /// Requests arrive, answers are lost.
    Mute,
    /// Connections are closed, and closed again when they are made.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    wire: watch::Sender<Wire>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// `server` is a host and port, or a URL of them.
    pub async fn to(server: &str) -> Proxy {
        let server = server.rsplit('/').next().expect("there is always a last part").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (wire, receiver) = watch::channel(Wire::Open);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server.clone(), receiver.clone()));
            }
        });
        Proxy { address, wire, task }
    }

    /// Whatever was lost stays lost: connections only survive the change to `Mute`.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, server: String, mut wire: watch::Receiver<Wire>) {
    if *wire.borrow_and_update() == Wire::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (mut request, mut answer) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let carried = tokio::select! {
            read = from_client.read(&mut request) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => to_server.write_all(&request[..length]).await,
            },
            read = from_server.read(&mut answer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if *wire.borrow() == Wire::Mute => Ok(()),
                Ok(length) => to_client.write_all(&answer[..length]).await,
            },
            changed = wire.changed() => match changed {
                Ok(()) if *wire.borrow_and_update() == Wire::Mute => Ok(()),
                Ok(()) | Err(_) => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}
